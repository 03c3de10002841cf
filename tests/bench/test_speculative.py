"""Speculative decoding: the same answers, and how many drafted tokens are accepted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from trimlab.bench.speculative import accepted, generate


def test_accepted_tokens_are_those_before_the_first_difference() -> None:
    answer = [5, 6, 7, 8, 9, 2]
    # all of a draft, none, and the end of the answer with a token behind it
    assert accepted([[5, 6], [1, 9], [9, 2, 4]], answer) == 2 + 0 + 2
    assert accepted([[], [6, 1]], answer) == 1


def test_a_draft_that_is_the_model_itself_is_accepted_whole(tiny_model: Callable[..., Any]) -> None:
    # transformers hides generated padding from the draft model, which would differ then
    model, draft = (tiny_model("llama", pad_token_id=2) for _ in range(2))
    draft.generation_config.update(
        num_assistant_tokens=3,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    prompts = [[1, 9, 10, 30, 20], [1, 7, 33]]
    alone = generate(model, None, prompts, 16)
    found = generate(model, draft, prompts, 16)
    assert found.answers == alone.answers and alone.passes == alone.tokens == 32
    # three drafted tokens and one more in each pass
    assert found.accepted == found.drafted == 3 * found.passes == 24


def test_a_draft_with_another_tokenizer_is_refused(
    trimlab_bench: Callable[..., int],
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tiny_folder(tmp_path / "draft", num_hidden_layers=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["abc"])
    tokenizer.save_pretrained(folder)
    assert trimlab_bench("speculative", "--draft", folder, "--rows", 1) == 2
    assert "has another tokenizer" in capsys.readouterr().err

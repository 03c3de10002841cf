"""Decoding for speed: the tokens of greedy decoding, and reports by hand. No clock is tested."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from tests.tiny import TinyModel
from trimlab.evaluation import speed
from trimlab.evaluation.decoding import greedy_tokens
from trimlab.evaluation.speed import decode, decode_latency_ms, decode_speeds, read_prompt
from trimlab.model.sublayers import Sublayer, SublayerStack


def inputs_of(model: Any) -> list[torch.Tensor]:
    """Collects the token ids of every forward pass from now on."""
    seen: list[torch.Tensor] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return seen


@pytest.mark.parametrize("dropped", [(), (Sublayer(0, "attention"),)])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
def test_each_pass_runs_on_the_likeliest_token_alone(
    family: str, dropped: tuple[Sublayer, ...], tiny_model: TinyModel
) -> None:
    model = tiny_model(family)
    SublayerStack(model).drop(*dropped)
    text = torch.arange(8)[None]
    expected = []
    with torch.inference_mode():
        for _ in range(5):  # without a cache
            expected.append(model(text, use_cache=False).logits[:, -1:].argmax(-1))
            text = torch.cat([text, expected[-1]], dim=1)
    seen = inputs_of(model)
    prompt = read_prompt(model, 8)
    assert seen[0].tolist() == [list(range(8))]
    decode(model, prompt, 5)
    assert torch.equal(torch.cat(seen[1:], dim=1), torch.cat(expected, dim=1))
    assert all(ids.shape == (1, 1) for ids in seen[1:])


def test_a_token_costs_no_pass_before_the_next_is_asked_for(tiny_model: TinyModel) -> None:
    model = tiny_model("llama")
    prompt, seen = read_prompt(model, 4), inputs_of(model)
    assert len(list(islice(greedy_tokens(model, prompt), 3))) == 3
    assert len(seen) == 2


def test_a_model_without_attention_decodes_too(tiny_model: TinyModel) -> None:
    model = tiny_model("llama")
    stack = SublayerStack(model)
    stack.drop(*[s for s in stack if s.kind == "attention"])
    decode(model, read_prompt(model, 4), 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(training: bool, tiny_model: TinyModel) -> None:
    model = tiny_model("llama").train(training)
    assert speed.decode_seconds(model, prompt_tokens=4, new_tokens=2) > 0
    assert model.training == training


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a clock will show for each turn, in place of real ones."""
    turns: list[float] = []
    clock = 0.0

    def ticks() -> Iterator[float]:
        nonlocal clock
        for turn in turns:
            yield clock
            clock += 16 * turn  # tokens per turn
            yield clock

    shown = ticks()
    monkeypatch.setattr("time.perf_counter", lambda: next(shown))
    return turns


def test_latency_is_a_median_without_the_first_turn(
    seconds: list[float], tiny_model: TinyModel
) -> None:
    seconds += [100.0, 0.5, 0.25, 4.0]
    assert decode_latency_ms(tiny_model("llama"), repeats=3) == 500


def test_speeds_are_medians_and_models_take_turns(
    seconds: list[float], tiny_model: TinyModel
) -> None:
    seconds += [9.0, 9.0, 0.5, 0.25, 1.0, 0.125, 0.25, 0.5]  # a, b, a, b, ...
    model = tiny_model("llama")
    found = decode_speeds({"a": model, "b": model}, repeats=3)
    assert [found[name].tokens_per_second for name in "ab"] == [2, 4]
    # quartiles of three values are the outer two: 1, 2, 4 and 2, 4, 8
    assert [found[name].spread for name in "ab"] == [3, 6]
    seconds += [9.0, 0.5]
    assert decode_speeds({"a": model}, repeats=1) == {"a": (2, 0)}

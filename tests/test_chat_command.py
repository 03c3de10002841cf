"""`trimlab chat`: answers to piped lines, from one model and from two side by side."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimlab import cli

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
NEW = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[..., Path]) -> Any:
    """A model whose tokenizer has a chat template, and one without."""
    plain = tiny_folder(tmp_path_factory.mktemp("plain"), seed=1)
    chat = tiny_folder(tmp_path_factory.mktemp("chat"))
    tokenizer = AutoTokenizer.from_pretrained(chat)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(chat)
    return chat, plain


def talk(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: object) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    with pytest.raises(SystemExit) as stop:
        cli.main(["chat", *map(str, arguments), "--new_tokens", str(NEW)])
    return int(stop.value.code or 0)


def answer(folder: Path, prompt: str) -> str:
    """What transformers generates after a prompt."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(found, skip_special_tokens=True)


def test_a_conversation_goes_on_until_it_is_reset(
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chat, _ = folders
    assert talk(monkeypatch, "who?\n\nwhy?\n/reset\nwhy?\n/quit\nno more", chat) == 0
    first = answer(chat, "user: who?\nassistant:")
    second = answer(chat, f"user: who?\nassistant: {first}\nuser: why?\nassistant:")
    alone = answer(chat, "user: why?\nassistant:")
    printed, said = capsys.readouterr()
    assert printed == f"{first}\n{second}\n{alone}\n"
    assert "tokens/s" in said


def test_two_models_answer_one_after_the_other(
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chat, plain = folders
    assert talk(monkeypatch, "the end", plain, "--beside", chat) == 0
    continued, answered = answer(plain, "the end"), answer(chat, "user: the end\nassistant:")
    assert capsys.readouterr().out == f"[{plain}]\n{continued}\n[{chat}]\n{answered}\n"


def test_a_folder_without_a_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert talk(monkeypatch, "", tmp_path) == 2
    assert str(tmp_path) in capsys.readouterr().err

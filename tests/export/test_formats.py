"""The contract of every export format."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab.errors import InputError
from trimlab.export._format import FORMATS, Export, ExportFormat, format_names, load_format
from trimlab.export._traced import TracedFormat
from trimlab.model.authors_bypass import use_authors_bypass
from trimlab.model.sublayers import Sublayer, SublayerStack

every_format = pytest.mark.parametrize("name", format_names())
# tracing a graph takes half a minute, also of a tiny model
every_written_format = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow])
        if isinstance(load_format(name), TracedFormat)
        else name
        for name in format_names()
    ],
)
# the middle blocks without one sublayer each, which packs into one block fewer
DROPPED = [Sublayer(1, "mlp"), Sublayer(2, "attention")]


def trimmed(tiny_model: Any) -> SublayerStack:
    stack = SublayerStack(tiny_model("llama", torch.float32))
    stack.drop(*DROPPED)
    return stack


def test_there_are_formats_and_an_unknown_one_is_named() -> None:
    assert "hf" in format_names()
    with pytest.raises(InputError, match="no export format 'nosuch'; there are .*hf"):
        load_format("nosuch")


@every_format
def test_a_format_says_what_it_is(name: str) -> None:
    assert isinstance(load_format(name), ExportFormat)
    assert importlib.import_module(f"{FORMATS}.{name.replace('-', '_')}").__doc__


@every_format
def test_a_check_changes_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any
) -> None:
    stack = trimmed(tiny_model)
    config = stack.model.config.to_dict()
    weights = {key: value.clone() for key, value in stack.model.state_dict().items()}
    monkeypatch.chdir(tmp_path)
    load_format(name).check(stack)
    assert stack.history == DROPPED and stack.model.config.to_dict() == config
    state = stack.model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert list(tmp_path.iterdir()) == []


@every_written_format
def test_an_export_is_reloaded_and_compared(
    name: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    stack = trimmed(tiny_model)
    config = stack.model.config.to_dict()
    for _ in range(2):  # an earlier export is replaced
        export = load_format(name).write(stack, tiny_tokenizer(), tmp_path / "model")
        assert isinstance(export, Export)
        assert export.folder == tmp_path / "model" and export.blocks > 0
        files = [path for path in export.folder.rglob("*") if path.is_file()]
        assert export.bytes_on_disk == sum(path.stat().st_size for path in files) > 0
        assert 0 <= export.logit_difference < 1e-4
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert stack.history == DROPPED and stack.model.config.to_dict() == config


@every_format
def test_an_ablation_is_refused_by_check_and_by_write(
    name: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    use_authors_bypass(stack)
    stack.drop(*DROPPED)
    with pytest.raises(InputError, match="can't be exported"):
        load_format(name).check(stack)
    with pytest.raises(InputError, match="can't be exported"):
        load_format(name).write(stack, tiny_tokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@every_format
def test_a_place_of_something_else_is_refused(
    name: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    (tmp_path / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds no model"):
        load_format(name).write(trimmed(tiny_model), tiny_tokenizer(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["chapter.tex"]

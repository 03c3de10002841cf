"""`trimlab export`, and what formats hold."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab import cli
from trimlab.engines._engine import engine_for, load_engine
from trimlab.errors import InputError
from trimlab.export import _format
from trimlab.export._format import load_format
from trimlab.export.hf import save_packed
from trimlab.model.sublayers import Sublayer, SublayerStack

T2 = [Sublayer(1, "mlp"), Sublayer(3, "mlp")]
QWEN = {"sliding_window": None, "use_sliding_window": False, "layer_types": None}
NO_WINDOW = {"mistral": {"sliding_window": None}, "qwen2": QWEN, "qwen3": QWEN}
FAMILIES = {
    "gguf": ["llama", "qwen2", "qwen3", "gemma3_text", "gemma2"],
    "nemotron-nas": ["llama", "mistral", "qwen2"],
}


def run(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["export", *map(str, arguments)])
    return exit_.value.code


@pytest.fixture
def packed(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    """A packed folder with dead sublayers."""
    stack = SublayerStack(tiny_model("llama", torch.float32))
    stack.drop(*T2)
    return save_packed(stack, tiny_tokenizer(), tmp_path / "packed").folder


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name, families in FAMILIES.items() for family in families],
)
def test_families_in_formats(
    name: str, family: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    for tier, dropped in (("T1", ["1.mlp", "2.attention"]), ("T2", ["1.attention", "3.mlp"])):
        stack = SublayerStack(tiny_model(family, torch.float32, **NO_WINDOW.get(family, {})))
        stack.drop(*map(Sublayer.parse, dropped))
        export = load_format(name).write(stack, tiny_tokenizer(), tmp_path / tier)
        assert export.tier == ("T3" if (tier, name) == ("T2", "nemotron-nas") else tier)
        # llama.cpp reads GELU from a table in float16
        assert export.difference.logits < (4e-3 if family.startswith("gemma") else 1e-5)


def test_the_command_exports_a_packed_folder_and_says_how_to_run_it(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(packed, "--to", "gguf", "--dtype", "q8_0", "--out", out) == 0
    said = capsys.readouterr().out
    assert "tier T2" in said and "0 attentions and 2 MLPs of zeros" in said
    assert "reloaded in llama.cpp" in said and "q8_0" in said and "llama-server -m" in said
    assert (out / "Modelfile").read_text().startswith("FROM ./model.gguf")
    assert engine_for(out) == "llama.cpp"
    with load_engine("llama.cpp").load(out, threads=1, dtype=torch.float32) as model:
        logits = model.logits(torch.tensor([[5, 6, 7]]))
        assert logits.shape == (1, 3, 64)
        assert next(model.decode([5, 6, 7], 1)) == int(logits[0, -1].argmax())
    nas = tmp_path / "nas"
    assert run(packed, "--to", "nemotron-nas", "--out", nas) == 0
    said = capsys.readouterr().out
    assert "tier T3" in said and "not run here: vllm" in said


def test_wrong_input_is_one_line_and_exit_code_2(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_folder: Any
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}")
    windows = tiny_folder(tmp_path, "mistral")
    other = tiny_folder(tmp_path, "gpt_neox")
    out = ["--out", tmp_path / "out"]
    for arguments, message in (
        ([packed, "--to", "gguf", "--out", tmp_path / "taken"], "is not empty"),
        ([packed, "--to", "nosuch", *out], "no export format 'nosuch'; there are"),
        ([packed, "--to", "gguf", "--dtype", "int3", *out], "gguf has no type int3"),
        ([packed, "--to", "hf", "--ratio", "0.5", *out], "is no run folder"),
        ([tmp_path / "begun", "--to", "hf", *out], "has no trimmed model yet"),
        ([windows, "--to", "gguf", *out], "without its sliding window"),
        ([windows, "--to", "nemotron-nas", *out], "has no sliding windows"),
        ([other, "--to", "gguf", *out], "gguf holds no gpt_neox"),
        ([other, "--to", "nemotron-nas", *out], "no gpt_neox"),
    ):
        assert run(*arguments) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("trimlab:") == 1
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "years of work"


def test_a_difference_leaves_nothing_behind_and_exit_code_1(
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save = load_format("gguf").save
    module = type(load_format("gguf"))

    def spoiled(self: Any, stack: SublayerStack, *rest: Any) -> None:
        with torch.no_grad():
            weight = next(stack.model.parameters())
            weight.mul_(1.5)
            save(stack, *rest)
            weight.div_(1.5)

    monkeypatch.setattr(module, "save", spoiled)
    assert run(packed, "--to", "gguf", "--out", tmp_path / "out") == 1
    assert "logits differ" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_a_missing_engine_names_the_extra(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = type(load_engine("llama.cpp"))
    monkeypatch.setattr(engine, "package", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'trimlab\[gguf\]'"):
        _format.load_engine("llama.cpp").check()
    assert run(packed, "--to", "gguf", "--out", tmp_path / "out") == 2

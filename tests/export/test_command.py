"""`trimlab export`, and what formats hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import EvalResult, ModelCardData

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


def run_verb(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(map(str, arguments)))
    return exit_.value.code


def run(*arguments: object) -> int | str | None:
    return run_verb("export", *arguments)


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
        gaps = name == "nemotron-nas" or family == "llama"  # blocks may lack a sublayer
        assert export.tier == ("T3" if tier == "T2" and gaps else tier)
        # llama.cpp reads GELU from a table in float16
        assert export.difference.logits < (4e-3 if family.startswith("gemma") else 1e-5)


def test_the_command_exports_a_packed_folder_and_says_how_to_run_it(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("--to", "gguf", "--dtype", "q8_0", "--check", "llama.cpp", "--out", out)
    assert run(packed, *arguments) == 0
    said = capsys.readouterr().out
    assert "tier T3" in said and "of zeros" not in said
    assert said.count("reloaded in llama.cpp") == 2 and "log-probabilities within" in said
    assert "q8_0" in said and "llama-server -m" in said
    assert (out / "Modelfile").read_text().startswith("FROM ./model.gguf")
    found = engine_for(out)
    assert found is not None and found.name == "llama.cpp"
    with load_engine("llama.cpp").load(out, threads=1, dtype=torch.float32) as model:
        logits = model.logits(torch.tensor([[5, 6, 7]]))
        assert logits.shape == (1, 3, 64)
        assert next(model.decode([5, 6, 7], 1)) == int(logits[0, -1].argmax())
    nas = tmp_path / "nas"
    assert run(packed, "--to", "nemotron-nas", "--out", nas) == 0
    said = capsys.readouterr().out
    assert "tier T3" in said and "not run here: vllm" in said
    assert run(packed, "--to", "hf", "--out", tmp_path / "hf") == 0
    said = capsys.readouterr().out
    assert "tier T2" in said and "0 attentions and 2 MLPs of zeros" in said


def test_an_export_is_scored_by_its_engine_beside_what_its_card_says(
    packed: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = EvalResult(
        task_type="text-generation",
        dataset_type="jsonl",
        dataset_name="jsonl",
        metric_type="accuracy",
        metric_value=62.5,
        metric_args={"stderr": 4.5, "n": 24},
    )
    data = ModelCardData(model_name="trimmed", eval_results=[result], library_name="transformers")
    (packed / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n\n# A model of letters\n")
    out = tmp_path / "out"
    assert run(packed, "--to", "gguf", "--out", out) == 0
    card = (out / "README.md").read_text()
    assert "Written by `trimlab export --to gguf" in card and "# A model of letters" in card
    assert "library_name" not in card
    rows = []
    capsys.readouterr()
    for model in (packed, out, out / "model.gguf"):
        arguments = ["--tasks", "jsonl", "--data.root", root, "--extra_metrics", "--json"]
        assert run_verb("eval", model, *arguments) == 0
        rows.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    (_, here), (_, there), (_, again) = rows
    assert here["metric"] == there["metric"] == "accuracy_normalised"
    assert [there[key] for key in ("value", "stderr", "n")] == pytest.approx(
        [here[key] for key in ("value", "stderr", "n")]
    )
    assert again["value"] == there["value"]
    assert (there["engine"], rows[1][0]["card"]) == (
        "llama.cpp",
        {"value": 62.5, "stderr": 4.5, "n": 24},
    )
    assert run_verb("eval", out, "--tasks", "jsonl", "--backend", "lm-eval") == 2
    assert "needs --engine transformers" in capsys.readouterr().err


def test_gguf_leaves_out_gaps_and_rounds_as_llama_cpp_does(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    from gguf import GGUFReader

    sizes = {"hidden_size": 256, "intermediate_size": 320, "head_dim": 32}
    stack = SublayerStack(tiny_model("llama", torch.float32, **sizes))
    stack.drop(Sublayer(0, "attention"), Sublayer(2, "attention"), Sublayer(3, "mlp"))
    export = load_format("gguf").write(stack, tiny_tokenizer(), tmp_path / "out", "q4_k_m")
    assert export.tier == "T3" and export.compressed is not None
    reader = GGUFReader(export.folder / "model.gguf")
    fields = reader.fields
    assert fields["general.architecture"].contents() == "deci"
    # the first block keeps an attention, of zeros; the narrow MLP of the last one is of zeros, too
    assert fields["deci.attention.head_count"].contents() == [4, 4, 0, 4]
    assert fields["deci.feed_forward_length"].contents() == [320, 320, 320, 32]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert "blk.2.attn_q.weight" not in kinds and "blk.2.attn_norm.weight" not in kinds
    assert kinds["blk.1.attn_q.weight"] == "Q4_K" and kinds["output.weight"] == "Q6_K"
    assert kinds["blk.1.ffn_down.weight"] == "Q5_0"  # rows of 320 have no blocks of 256


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf", "nemotron-nas"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_vllm_gives_the_same_log_probabilities(
    name: str, family: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    pytest.importorskip("vllm")
    # vLLM has no kernels for the tiny heads of other tests
    options = NO_WINDOW.get(family, {}) | {"hidden_size": 128}
    stack = SublayerStack(tiny_model(family, torch.float32, **options))
    stack.drop(*map(Sublayer.parse, ["1.attention", "3.mlp"]))
    out = tmp_path / "out"
    export = load_format(name).write(stack, tiny_tokenizer(), out, engine="vllm")
    assert export.checked is not None and export.checked.log_probs < 1e-4
    with load_engine("vllm").load(out, threads=1, dtype=torch.float32) as model:
        logits = model.logits(torch.tensor([[5, 6, 7]]))
        assert next(iter(model.decode([5, 6, 7], 2))) == int(logits[0, -1].argmax())


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

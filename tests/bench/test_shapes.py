"""Benchmarks of random weights in a shape, on a device and in a type of choice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from trimlab import cli
from trimlab.bench import _device, _model
from trimlab.bench._model import BenchmarkModel
from trimlab.errors import InputError
from trimlab.model.loading import load_model
from trimlab.records.rows import read_rows

CPU = torch.device("cpu")
TEXTS = ["plants take in carbon dioxide", "the sun"]
PEERS = {
    "score": "lm-eval",
    "scan": "lm-eval",
    "train": "trainer",
    "run": "trainer",
    "decode": "full",
    "prefill": "full",
}


def made(
    shape: str, blocks: int | None = None, dtype: torch.dtype = torch.float32
) -> BenchmarkModel:
    return BenchmarkModel("", shape, blocks, device=CPU, dtype=dtype, texts=lambda: TEXTS)


def bench(name: str, *arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in ("bench", name, *arguments)])
    return int(stop.value.code or 0)


def row_of(name: str, out: Path, root: Path, *options: object) -> dict[str, Any]:
    where = ("--data.task", "jsonl", "--data.root", root, "--repeats", 1, "--out", out)
    assert bench(name, "--against", PEERS[name], *where, *options) == 0
    return read_rows(out)[-1]


def test_the_llama_shaped_model() -> None:
    model, tokenizer = made("llama-shaped", 1).load()
    block = sum(p.numel() for p in model.model.layers.parameters())
    ends = sum(p.numel() for p in model.parameters()) - block
    assert 130e6 < ends + 32 * block < 140e6
    ids = tokenizer("plants shine")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "plants shine"


@pytest.mark.usefixtures("tiny_shape")
def test_a_shape_and_a_folder_of_its_weights_are_the_same_model(tmp_path: Path) -> None:
    model, tokenizer = made("any", 1, torch.bfloat16).load()
    assert model.dtype == torch.bfloat16 and not model.training
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, its_tokenizer = load_model(str(tmp_path), dtype=torch.bfloat16)
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)
    assert its_tokenizer.model_max_length == tokenizer.model_max_length == 2048


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every shape a tiny one."""

    def config(_: str) -> LlamaConfig:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        return LlamaConfig(vocab_size=300, num_hidden_layers=8, **sizes)

    monkeypatch.setattr(_model, "shape_config", config)


@pytest.mark.usefixtures("tiny_shape")
@pytest.mark.parametrize("name", ["scan", "train", "decode"])
def test_benchmarks_run_on_a_shape_in_bfloat16(
    name: str, root: Path, tmp_path: Path, tiny_options: Callable[[str], list[str]]
) -> None:
    shape = ("--shape", "smollm2-135m", "--blocks", 3, "--dtype", "bfloat16", "--device", "cpu")
    row = row_of(name, tmp_path / "bench.jsonl", root, *shape, *tiny_options(name))
    assert (row["base"], row["profile"]) == ("smollm2-135m-shape", "smollm2-135m-shape")
    assert (row["cell"]["blocks"], row["cell"]["dtype"]) == (3, "bfloat16")
    assert (row["settings"]["device"], row["settings"]["dtype"]) == ("cpu", "bfloat16")
    assert row["ratio"] > 0


@pytest.mark.usefixtures("tiny_shape")
def test_a_record_without_new_options_has_the_cell_of_earlier_records(
    root: Path, tmp_path: Path
) -> None:
    """Otherwise a repeated measurement would stand beside the earlier one."""
    options = ("--model", "llama-shaped", "--blocks", 1, "--new_tokens", 1)
    row = row_of("decode", tmp_path / "bench.jsonl", root, *options)
    names = ["bench", "peer", "prompt_tokens", "new_tokens", "blocks", "threads", "processor"]
    assert list(row["cell"]) == names
    assert (row["base"], row["profile"]) == ("llama-shaped", "llama-shaped")


def test_an_unknown_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("decode", "--shape", "llama-8b") == 2
    assert (
        "no shape 'llama-8b'; there are gemma-3-270m, llama-13b, llama-7b"
        in capsys.readouterr().err
    )


def test_weights_beyond_the_free_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "free_memory", lambda _: 8 * 10**9)
    with pytest.raises(InputError, match=r"take 13\.5 GB and cpu has 8\.0 GB free: --blocks"):
        made("llama-7b", dtype=torch.bfloat16)
    made("llama-7b", 16, torch.bfloat16)  # half of it fits


@pytest.mark.usefixtures("tiny_shape")
def test_memory_that_runs_out_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_model, "random_model", full)
    out = tmp_path / "bench.jsonl"
    assert bench("decode", "--shape", "smollm2-135m", "--blocks", 1, "--out", out) == 2
    assert "is not enough: lower the number of tokens or rows" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(PEERS))
def test_every_benchmark_runs_on_a_gpu(
    name: str, root: Path, tmp_path: Path, tiny_options: Callable[[str], list[str]]
) -> None:
    shape = ("--shape", "smollm2-135m", "--blocks", 3, "--device", "cuda")
    row = row_of(name, tmp_path / "bench.jsonl", root, *shape, *tiny_options(name))
    assert row["cell"]["processor"] == torch.cuda.get_device_name()
    assert row["cell"]["dtype"] == "bfloat16" and row["ratio"] > 0
    json.dumps(row)


@pytest.mark.gpu
def test_every_method_runs_on_a_gpu(root: Path, tmp_path: Path) -> None:
    shape = ("--shape", "smollm2-135m", "--blocks", 3, "--device", "cuda", "--dtype", "bfloat16")
    methods = "[pairs,mostly_mlps,llm_int8,int4,sparse24]"
    row_of("decode", tmp_path / "bench.jsonl", root, *shape, "--methods", methods)
    stored = {
        row["settings"]["method"]: row["settings"]["weight_bytes"]
        for row in read_rows(tmp_path / "bench.jsonl")
    }
    whole = read_rows(tmp_path / "bench.jsonl")[0]["settings"]["peer_weight_bytes"]
    assert len(stored) == 5 and all(size < whole for size in stored.values())

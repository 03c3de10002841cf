"""The command `trimlab bench`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trimlab.bench._benchmark import BENCHMARKS
from trimlab.plugins import plugin_names

BUILT = torch.version.cuda or torch.version.hip
NO_GPU = "no GPU can be used" if BUILT else "this PyTorch is built without CUDA"


def test_without_json_a_table_is_printed(
    trimlab_bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folder" / "bench.jsonl"
    assert trimlab_bench("score", "--against", "naive", "--rows", 4, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "naive" in printed and "ratio" in printed
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "no benchmark 'nosuch'; there are "),
        (["score", "--against", "nobody"], "no peer 'nobody'"),
        (["score", "--repeats", 0], "repeats must be at least 1"),
        (["score", "--rows", "many"], "rows"),
        (["score", "--rows", 0], "--rows must be at least 1, not 0"),
        (["scan", "--peer_sublayers", 0], "--peer_sublayers must be at least 1"),
        (["score", "--batch_sizes", "[4,0]"], "--batch_sizes must be at least 1"),
        (["train", "--against", "trainer", "--micro_batch_size", 3], "3 does not divide"),
        (["train", "--r", 1.5], "--r must be in (0, 1], not 1.5"),
        (["train", "--device", "cuda"], f"device cuda: {NO_GPU} ({torch.__version__}); take cpu"),
        (["train", "--device", "tpu"], "tpu"),
        (["train", "--dtype", "int3"], "int3"),
        (["train", "--dtype", "float16"], "16-true loses small gradients: take bf16-true"),
        (["score", "--blocks", 2], "--blocks is for a --shape"),
        (["score", "--shape", "llama-7b"], "name a --model or a --shape, not both"),
        (["decode", "--methods", "[int5]"], "no method 'int5'; there are built, int4, llm_int8, "),
        (["decode", "--methods", "[pairs,pairs]"], "name each method once"),
        (["decode", "--methods", "[sparse24]"], "sparse24 needs an NVIDIA GPU"),
        (["growth", "--sublayers", "[2,8]"], "8 sublayers asked for, and the model has 6"),
    ],
    ids=str,
)
def test_bad_arguments(
    arguments: list[object],
    message: str,
    trimlab_bench: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *options = arguments
    assert trimlab_bench(name, "--out", tmp_path / "bench.jsonl", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bench.jsonl").exists()


def test_help_lists_the_benchmarks_and_explains_one(
    trimlab_bench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trimlab_bench("--help") == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in plugin_names(BENCHMARKS))
    assert trimlab_bench("scan", "--help") == 0
    printed = capsys.readouterr().out
    for option in ("--against", "--rows", "--data.root", "--peer_sublayers", "--threads"):
        assert option in printed

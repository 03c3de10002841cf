"""Benchmarks of inference in other engines than transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trimlab.records.rows import read_rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "nosuch"), "no engine 'nosuch'"),
        (("--export_dtype", "int8"), "another --engine"),
        (("--engine", "onnxruntime", "--methods", "[llm_int8]"), "in transformers alone"),
    ],
)
def test_what_an_engine_cannot_run_is_refused(
    options: tuple[str, ...],
    message: str,
    trimlab_bench: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("onnxruntime", "bitsandbytes"):
        pytest.importorskip(package)
    assert trimlab_bench("decode", *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decode", "prefill"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_sides_run_in_the_engine(
    name: str,
    engine: str,
    trimlab_bench: Callable[..., int],
    tiny_options: Callable[[str], list[str]],
    tmp_path: Path,
) -> None:
    pytest.importorskip(engine)
    out = tmp_path / "bench.jsonl"
    options = ("--engine", engine, "--export_dtype", "int8", "--against", "full", "--out", out)
    assert trimlab_bench(name, *tiny_options(name), *options) == 0
    (row,) = read_rows(out)
    assert row["cell"].items() >= {"engine": engine, "export_dtype": "int8"}.items()
    assert row["settings"]["weight_bytes"] < row["settings"]["peer_weight_bytes"]
    assert row["rates"]["ours_tokens_per_second"] > 0

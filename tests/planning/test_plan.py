"""`trimlab plan`: the models, sizes and lengths that it plans with, and its command."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.planning.jobs import ATTENTION, MLP, TINY, make_job
from trimlab.cli import main
from trimlab.model.shape import empty_model, shape_config
from trimlab.planning.base import base_config, built_folder
from trimlab.planning.plan import parse_memory
from trimlab.planning.sizes import ModelSizes
from trimlab.planning.trimmed import trimmed_sizes
from trimlab.planning.workload import parse_tokens, spread


def test_sizes_of_llama_7b() -> None:
    sizes = ModelSizes(shape_config("llama-7b"))
    assert sizes.total == sum(p.numel() for p in empty_model(sizes.config).parameters())
    assert sizes.parameters_of("attention") == 4 * 4096**2 + 4096
    assert sizes.cache_per_token == 2 * 32 * 4096


def test_the_trimmed_model_and_its_cache() -> None:
    full, trimmed = trimmed_sizes(make_job())
    assert full.weights == 2 * ModelSizes(TINY).total
    assert full.weights - trimmed.weights == 2 * 2 * (ATTENTION + MLP)
    assert full.cache_per_token == 2 * 4 * 2 * 2 * 8  # bytes, blocks, keys and values, heads, width
    assert trimmed.cache_per_token == full.cache_per_token / 2
    assert trimmed.cache[256] == 256 * trimmed.cache_per_token


def test_spread_has_the_mean_and_the_maximum() -> None:
    lengths = spread(500, 128, 512)
    assert max(lengths) == 512
    assert sum(lengths) / len(lengths) == pytest.approx(128, rel=0.05)


def test_parsed_sizes() -> None:
    assert parse_memory("24GiB") == 24 * 2**30
    assert parse_memory("80 GB") == 80 * 10**9
    assert parse_memory("1.5gib") == 3 * 2**29
    assert parse_tokens("96,300") == (96, 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "llama-9b"], "no shape 'llama-9b'; there are"),
        (["--shape", "llama-7b", "--machine", "h900"], "no machine 'h900'; there are a100"),
        (["--shape", "llama-7b", "--device-memory", "24 apples"], "takes a size such as 24GiB"),
        (["--shape", "llama-7b", "--tokens"], "argument --tokens: expected one argument"),
        (["--shape", "llama-7b", "--tokens", "300,100"], "--tokens takes the mean and"),
        (["--shape", "llama-7b", "--model.base", "x"], "name two models; give one of them"),
        (["--model.base", "nobody/nothing"], "give --shape (gemma-3-270m"),
        (["--model.base", "nowhere"], "there is no model 'nowhere'"),
        (["--shape", "llama-7b", "--model.tokens", "3"], "model.tokens"),
        (["--shape", "llama-7b", "--measure", "--machine", "h100"], "--measure runs here"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> str:
        raise OSError("no connection")

    monkeypatch.setattr("trimlab.planning.base.hf_hub_download", unreachable)
    with pytest.raises(SystemExit) as stop:
        main(["plan", "--trim.target_layer_memory", "0.5", *arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert message in error


def test_plan_of_a_local_folder_reads_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TINY.save_pretrained(tmp_path)
    arguments = ["--model.base", str(tmp_path), "--machine", "h100", "--tokens", "16,32"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments, "--trim.target_layer_memory", "0.5", "--json"])
    assert stop.value.code == 0
    row = json.loads(capsys.readouterr().out)
    assert row["machine"]["name"] == "h100"
    assert row["fits"] is True
    assert row["fits_with"] == {}
    assert set(row["memory"]) >= {"untrimmed", "training", "scan", "export"}
    assert row["seconds"]["run"] > row["seconds"]["epoch"] > row["seconds"]["step"] > 0


def test_plan_of_an_embedded_model_that_is_not_built_assumes_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMLAB_CACHE", str(tmp_path))
    assert built_folder("smollm2-135m") is None
    arguments = ["--model.base", "smollm2-135m", "--data.task", "icd10_chapters"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments, "--trim.max_drops", "2", "--machine", "h100", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["lengths"].startswith("assumed: 128 tokens")
    assert list(tmp_path.iterdir()) == []  # nothing is built


def test_embedded_shapes_are_those_of_the_models() -> None:
    config = base_config("gemma-3-270m")
    assert ModelSizes(config).total == 268_098_176


@pytest.mark.slow  # seconds of measurement, which other load on the machine disturbs
@pytest.mark.parametrize("shape", ["smollm2-135m", "gemma-3-270m"])
def test_plan_is_within_15_percent_of_a_measurement(
    shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--shape", shape, "--tokens", "96,200", "--trim.target_layer_memory", "0.5"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments, "--measure", "--json"])
    assert stop.value.code == 0
    for row in json.loads(capsys.readouterr().out.splitlines()[-1]):
        assert row["predicted_bytes"] == pytest.approx(row["measured_bytes"], rel=0.15)
        assert row["predicted_seconds"] == pytest.approx(row["measured_seconds"], rel=0.15)

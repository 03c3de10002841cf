"""Every benchmark runs against each of its peers and writes rows that stand alone."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimlab.bench._benchmark import BENCHMARKS, load_benchmark
from trimlab.plugins import plugin_names
from trimlab.records.identity import config_hash
from trimlab.records.result_row import Bench, ResultRow
from trimlab.records.results import read_results
from trimlab.records.rows import append_rows

EVERY = [
    (name, peer)
    for name in plugin_names(BENCHMARKS)
    for peer in (None, *load_benchmark(name).peers)
]


@pytest.fixture(params=EVERY, ids=str)
def benchmark(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    return request.param


@pytest.fixture
def run(benchmark: tuple[str, str | None], tiny_run: Callable[..., Any]) -> Any:
    return tiny_run(*benchmark)


def test_standard_output_holds_the_rows_of_the_record(run: Any) -> None:
    lines = [line for line in run.printed.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in lines] == run.rows != []


def test_the_rows_are_results(
    benchmark: tuple[str, str | None], run: Any, base: Path, tmp_path: Path
) -> None:
    name, peer = benchmark
    has_rows = "rows" in inspect.signature(load_benchmark(name)).parameters
    for row in run.rows:
        typed = ResultRow.from_row(row)
        assert typed.to_row() == row
        assert row["run"] == config_hash({key: row[key] for key in row if key != "run"})
        cell, context, finding = typed.cell, typed.context, typed.finding
        assert isinstance(finding, Bench)
        assert (finding.bench, finding.peer) == (name, peer)
        assert cell.cell.items() >= {"bench": name, **({"peer": peer} if peer else {})}.items()
        assert (cell.profile, context.task, cell.limit) == (base.name, "jsonl", None)
        assert context.versions["torch"] and finding.settings["threads"] >= 1
        assert bool(context.row_sets) == has_rows
    # one cell per row: no result of a run takes the place of another
    append_rows(tmp_path / "bench.jsonl", run.rows)
    assert len(read_results(tmp_path)) == len(run.rows)


def test_times_and_memory_are_measured(benchmark: tuple[str, str | None], run: Any) -> None:
    _, peer = benchmark
    for row in run.rows:
        assert row["ours_seconds"] > 0 and row["ours_peak_bytes"] > 0
        assert ("ratio" in row) == (peer is not None)
        if peer:
            assert row["ratio"] == row["peer_seconds"] / row["ours_seconds"]
            assert row["memory_ratio"] == row["ours_peak_bytes"] / row["peer_peak_bytes"]


def test_the_results_of_both_sides_agree(run: Any) -> None:
    for row in run.rows:
        same = row["same"]
        for key, value in same.items():
            if key.startswith("same_") and not isinstance(value, bool):
                things = key.removeprefix("same_")
                assert value == (len(same[things]) if things in same else same["items"])
            elif key.startswith("same_"):
                assert value

"""Timing in turns, and what becomes of the times in the record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimlab.bench._benchmark import Benchmark, run_and_record
from trimlab.bench._result import BenchmarkResult
from trimlab.bench._timing import Turns, time_alternately
from trimlab.records.result_row import ResultRow
from trimlab.records.results import read_results
from trimlab.records.rows import read_rows


class Fixed(Benchmark):
    """Has measured these seconds."""

    peers = ("other",)
    seconds = 1.0

    def measure(self) -> Iterator[BenchmarkResult]:
        workload = {"rows": self.repeats["ours"]}
        theirs = Turns([8.0], [60]) if self.against else None
        yield BenchmarkResult(
            "x", Turns([self.seconds], [10]), theirs, self.against, workload=workload
        )


def test_candidates_take_turns() -> None:
    order: list[str] = []

    def candidate(name: str) -> Any:
        return lambda: lambda: order.append(name) or name

    candidates = {"ours": candidate("a"), "peer": candidate("b")}
    turns = time_alternately(candidates, {"ours": 3, "peer": 1})
    assert order == ["a", "b", "a", "a"]
    assert len(turns["ours"].seconds) == 3 and turns["peer"].result == "b"


def test_medians_spreads_and_ratios() -> None:
    result = BenchmarkResult(
        "x", Turns([1.0, 3.0, 2.0], [10, 30, 20]), Turns([8.0], [60]), "other", factor=6
    )
    found = result.finding("score", {})
    assert (found.ours_seconds, found.ours_spread, found.ours_peak_bytes) == (2.0, 2.0, 30)
    assert (found.peer_seconds, found.ratio, found.memory_ratio) == (48.0, 24.0, 0.5)
    assert found.peer_turns == [8.0]


@pytest.mark.parametrize("against", [None, "other"])
def test_a_recorded_row_reads_back_equal(against: str | None, tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    rows = list(run_and_record(Fixed(against=against), path))
    assert [ResultRow.from_row(row) for row in read_rows(path)] == rows


def test_a_repeated_measurement_replaces_the_older(tmp_path: Path) -> None:
    for repeats, seconds in ((1, 2.0), (1, 1.0), (2, 4.0)):
        fixed = Fixed(model="gemma-3-270m", repeats=repeats)
        fixed.seconds = seconds
        list(run_and_record(fixed, tmp_path / "bench.jsonl"))
    records = read_results(tmp_path)
    assert [record["ours_seconds"] for record in records] == [1.0, 4.0]
    # the profile of the experiments on this model
    assert {record["profile"] for record in records} == {"gemma-270m"}
    assert "was run again" in records.notices[0]

"""The result of a benchmark and its row in the record."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimlab.bench._timing import Turns
from trimlab.records.identity import config_hash
from trimlab.records.result_row import Bench, ResultRow
from trimlab.records.rows import JsonObject

# Profiles of `experiments/` with a shorter name than their embedded model. Tables group results by
# profile, so that a benchmark of the model belongs to the same group as its experiments.
PROFILES = {"gemma-3-270m": "gemma-270m"}


def profile_of(model: str) -> str:
    """Profile of a model in the record: by default the last part of its name or path."""
    return PROFILES.get(model, Path(model).name)


@dataclass(frozen=True)
class BenchmarkResult:
    """One measurement of a benchmark.

    Attributes:
        what: Description of the timed work.
        ours: Turns of trimlab.
        theirs: Turns of the peer, if there is one.
        peer: Name of the peer.
        factor: Scale of the peer's time, if the peer was timed on a part of the work.
        same: Comparison of what both sides computed.
        workload: Size of the work. Results of the same workload, model, processor and number of
            threads replace each other: the last one counts.
        settings: All other settings needed to repeat the measurement.
        rates: Work over time, by name.
    """

    what: str
    ours: Turns
    theirs: Turns | None = None
    peer: str | None = None
    factor: float = 1.0
    same: JsonObject = field(default_factory=dict)
    workload: JsonObject = field(default_factory=dict)
    settings: JsonObject = field(default_factory=dict)
    rates: JsonObject = field(default_factory=dict)

    def finding(self, bench: str, settings: JsonObject) -> Bench:
        """The result as a part of a row of the record.

        Args:
            bench: Name of the benchmark.
            settings: Settings shared by all results of the benchmark.
        """
        return Bench(
            bench=bench,
            what=self.what,
            peer=self.peer,
            ours_seconds=self.ours.median,
            ours_spread=self.ours.spread,
            ours_turns=self.ours.seconds,
            ours_peak_bytes=self.ours.peak,
            same=self.same,
            settings=self.workload | self.settings | settings,
            rates=self.rates or None,
            **self._peer_fields(),
        )

    def _peer_fields(self) -> dict[str, Any]:
        if self.theirs is None:
            return {}
        seconds = self.theirs.median * self.factor
        return {
            "peer_seconds": seconds,
            "peer_spread": self.theirs.spread * self.factor,
            "peer_turns": self.theirs.seconds,
            "peer_peak_bytes": self.theirs.peak,
            "peer_factor": self.factor,
            "ratio": seconds / self.ours.median,
            "memory_ratio": self.ours.peak / self.theirs.peak,
        }


def identified(row: ResultRow) -> ResultRow:
    """The row with its id: the hash of everything else in it, times included."""
    content = {name: value for name, value in row.to_row().items() if name != "run"}
    return replace(row, cell=replace(row.cell, run=config_hash(content)))

"""An operating point: the model after a drop step and its healing, before the next scan."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from trimlab.errors import InputError
from trimlab.records.rows import JsonObject
from trimlab.records.typed import TypedRow, fits, nullable

_SUBLAYER = re.compile(r"\d+\.(attention|mlp)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ScannedCandidate:
    """The result of a scan for one candidate.

    Attributes:
        candidate: Name of the candidate: `3.mlp`, or `3.mlp+4.attention`.
        score: Importance score; later entries break ties.
        statistics: Measurements behind the score, by name. `items` is the number of calibration
            items where the scan stopped candidates early: with fewer than all items, the accuracy
            is an upper bound and the score a lower bound.
    """

    candidate: str
    score: list[float]
    statistics: dict[str, float]

    @property
    def sublayers(self) -> list[str]:
        """Names of the candidate's sublayers."""
        return self.candidate.split("+")

    def to_row(self) -> JsonObject:
        """The entry as a JSON object."""
        return {"candidate": self.candidate, "score": self.score, **self.statistics}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads what `to_row` wrote.

        Raises:
            InputError: The candidate or its score is missing.
        """
        if not isinstance(row, Mapping):
            raise InputError(f"an entry of `scan` is no JSON object: {row!r:.40}")
        if missing := [name for name in ("candidate", "score") if name not in row]:
            raise InputError(f"an entry of `scan` without {', '.join(missing)}")
        statistics = {k: v for k, v in row.items() if k not in ("candidate", "score")}
        for kind, value in (
            (str, row["candidate"]),
            (list[float], row["score"]),
            (dict[str, float], statistics),
        ):
            if not fits(value, kind):
                raise InputError(f"an entry of `scan` cannot hold {value!r:.40}")
        return cls(candidate=row["candidate"], score=list(row["score"]), statistics=statistics)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint(TypedRow):
    """One point of the Pareto frontier.

    Attributes:
        step: Number of the point, from 0.
        epoch: Epoch that ended here, from 0.
        optimizer_steps: Optimizer steps so far.
        scan: The scan that led to the drop, one entry per candidate.
        scan_seconds: Time of the scan, in seconds.
        dropped: Sublayers dropped after the scan, in order.
        history: All sublayers dropped so far, in order.
        trainable: Remaining trainable sublayers.
        metric: Name of the dev metric.
        dev: Value of the dev metric after healing, in [0, 100].
        dev_stderr: Standard error of `dev` over the dev items.
        dev_n: Number of dev items.
        dev_before_drop: `dev` of the point before; None at the first point.
        dev_before_drop_stderr: Standard error of `dev_before_drop`.
        layer_memory_ratio: Bytes of the remaining sublayers over bytes of all sublayers.
        model_memory_ratio: The same ratio of the whole model, embeddings included.
        layer_bytes: Bytes of the remaining sublayers; None in early rows.
        latency_ms: Milliseconds per decoded token, where a target limits it.
        accepted: Whether the accuracy stop rule C_a holds.
        finished: Reason why trimming ended here, or None.
        seconds: Time since the previous point, in seconds.
        peak_rss_bytes: Peak memory since the previous point.
    """

    kind: ClassVar[str] = "operating_point"

    step: int
    epoch: int
    optimizer_steps: int
    scan: list[ScannedCandidate]
    scan_seconds: float
    dropped: list[str]
    history: list[str]
    trainable: list[str]
    metric: str
    dev: float
    dev_stderr: float
    dev_n: int
    dev_before_drop: float | None = nullable()
    dev_before_drop_stderr: float | None = nullable()
    layer_memory_ratio: float
    model_memory_ratio: float
    layer_bytes: int | None = nullable()
    latency_ms: float | None = nullable()
    accepted: bool
    finished: str | None
    seconds: float
    peak_rss_bytes: int

    def check(self) -> None:
        """Refuses names that no sublayer has.

        Raises:
            InputError: A name of a sublayer is not like `3.mlp`.
        """
        scanned = [name for entry in self.scan for name in entry.sublayers]
        for name in (*scanned, *self.dropped, *self.history, *self.trainable):
            if not _SUBLAYER.fullmatch(name):
                raise InputError(f"{name!r:.40} is no sublayer: they have names like 3.mlp")

    def to_row(self) -> JsonObject:
        """The row as a JSON object."""
        return super().to_row() | {"scan": [entry.to_row() for entry in self.scan]}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads a JSON object that `to_row` made."""
        point = super().from_row(row)
        scan: Any = point.scan
        return replace(point, scan=[ScannedCandidate.from_row(entry) for entry in scan])

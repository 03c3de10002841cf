"""A row of the results of experiments: which run, where from, and what it found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from trimlab.errors import InputError
from trimlab.records.model_result import TaskResult
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.rows import Row
from trimlab.records.typed import TypedRow, nullable

SCHEMA = 1

ModelName = Literal["untrimmed", "fine_tuned", "trimmed"]
TimingMethod = Literal["full_ft", "sparse_ft", "trimllm"]


@dataclass(frozen=True, kw_only=True)
class ExperimentCell(TypedRow):
    """Which run of which experiment a row belongs to.

    Attributes:
        experiment: Name of the experiment.
        profile: Name of the profile.
        cell: What sets the run apart from the others of the experiment; dotted names.
        run: Id of the run: the hash of its config.
        seed: Seed of everything.
        limit: Rows per set of a rehearsal; None for a full run.
        overrides: What all runs of the sweep were told besides; part of the cell, too.
    """

    experiment: str
    profile: str
    cell: Row
    run: str
    seed: int
    limit: int | None
    overrides: Row | None = None


@dataclass(frozen=True, kw_only=True)
class RunContext(TypedRow):
    """What a number needs to be trusted: model, data, code, hardware.

    Attributes:
        base: The base model.
        task: The task that it was trained on.
        prompt: Prompt format.
        row_sets: Fingerprint of every row set.
        git_commit: Commit of the code; `-dirty` where the code is in no commit.
        versions: Versions of the packages.
        hardware: Machine, processor, cores, GPU, Python.
        rows: Items per set.
        rows_read: Rows that were there, by split.
        rows_official: Rows that the splits have at the source.
        rows_dropped_as_shared: Rows left out, by split.
        config_hash: Hash of the resolved config.
    """

    base: str
    task: str
    prompt: str
    row_sets: dict[str, str]
    git_commit: str | None
    versions: dict[str, str | None]
    hardware: Row
    rows: dict[str, int] | None = None
    rows_read: dict[str, int] | None = None
    rows_official: dict[str, int] | None = None
    rows_dropped_as_shared: dict[str, int] | None = None
    config_hash: str | None = None

    @property
    def dirty(self) -> bool:
        """Whether the code that measured it is in no commit."""
        return str(self.git_commit or "-dirty").endswith("-dirty")


@dataclass(frozen=True, kw_only=True)
class _Tested(TaskResult):
    """What a test row has, whatever the model.

    Attributes: those of `ModelResult`, and
        evaluated_on: The task whose test items these are.
    """

    evaluated_on: str
    asked_ratio: float | None
    layer_memory_ratio: float
    model_memory_ratio: float
    optimizer_steps: int | None
    dropped: list[str] | None
    value_normalised: float | None = nullable()
    stability: float | None = nullable()
    exact_match: float | None = nullable()
    exact_match_stderr: float | None = None
    exact_match_n: int | None = None
    tokens_per_second: float | None = None
    tier: str | None = None
    bytes_on_disk: int | None = None


@dataclass(frozen=True, kw_only=True)
class Test(_Tested):
    """The test result of a model of a run.

    Attributes: those of every test row, and
        model: Which of its models.
    """

    __test__ = False
    kind: ClassVar[str] = "test"
    model: ModelName

    def check(self) -> None:
        """Refuses an unknown model, and what `TaskResult` refuses."""
        _check_name("model", self.model, ModelName)
        super().check()


@dataclass(frozen=True, kw_only=True)
class Compressed(_Tested):
    """The test result of what a baseline has made of a model of a run.

    Attributes: those of every test row, and
        method: Name of the baseline.
        title: The same in papers.
        of: What it has made smaller.
        zeros: Share of the matrix entries that are zero.
    """

    kind: ClassVar[str] = "compressed"
    method: str
    title: str
    of: ModelName
    zeros: float

    def check(self) -> None:
        """Refuses an unknown model, and what `TaskResult` refuses."""
        _check_name("of", self.of, ModelName)
        super().check()


@dataclass(frozen=True, kw_only=True)
class Timing(TypedRow):
    """Hours of fine-tuning by scheme (Table 9).

    Attributes:
        method: The scheme.
        epochs: Epochs of it.
        hours: What they took.
    """

    kind: ClassVar[str] = "timing"
    method: TimingMethod
    epochs: int
    hours: float

    def check(self) -> None:
        """Refuses an unknown scheme."""
        _check_name("method", self.method, TimingMethod)


@dataclass(frozen=True, kw_only=True)
class Bench(TypedRow):
    """A benchmark: our time, and that of what a user would run instead.

    Attributes:
        bench: Name of the benchmark.
        what: What was timed.
        peer: What it is compared with, or None; then nothing of the peer is there.
        ours_seconds: Median time of ours.
        ours_spread: Slowest less fastest.
        ours_turns: Every time.
        ours_peak_bytes: Peak memory.
        same: How the results were compared, and what came out.
        settings: Everything that is needed to repeat it.
        peer_seconds: Median time of the peer, scaled by `peer_factor`.
        peer_spread: Slowest less fastest, scaled.
        peer_turns: Every time, not scaled.
        peer_peak_bytes: Peak memory.
        peer_factor: What the peer's time is multiplied by where it did a part of the work only.
        ratio: The peer's median time over ours.
        memory_ratio: Our peak memory over the peer's.
    """

    kind: ClassVar[str] = "bench"
    bench: str
    what: str
    peer: str | None
    ours_seconds: float
    ours_spread: float
    ours_turns: list[float]
    ours_peak_bytes: int
    same: Row
    settings: Row
    peer_seconds: float | None = None
    peer_spread: float | None = None
    peer_turns: list[float] | None = None
    peer_peak_bytes: int | None = None
    peer_factor: float | None = None
    ratio: float | None = None
    memory_ratio: float | None = None

    def check(self) -> None:
        """Refuses a comparison that lacks a part.

        Raises:
            InputError: There is a peer, and one of its fields is missing.
        """
        names = ("seconds", "spread", "turns", "peak_bytes", "factor")
        needed = (*(f"peer_{name}" for name in names), "ratio", "memory_ratio")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.peer is not None and missing:
            raise InputError(f"without {', '.join(missing)}")


Finding = OperatingPoint | Test | Compressed | Timing | Bench
KINDS: dict[str, type[Finding]] = {kind.kind: kind for kind in get_args(Finding)}


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One row of the results.

    Attributes:
        cell: Which run.
        context: Where from.
        finding: What it found.
        complete: Whether this is the last row of its run: then all of them are there.
        config: The resolved config, in the last row of a run.
    """

    cell: ExperimentCell
    context: RunContext
    finding: Finding
    complete: bool = False
    config: Row | None = None

    def to_row(self) -> Row:
        """The row as it is written."""
        row = {"schema": SCHEMA, "kind": self.finding.kind, **self.cell.to_row()}
        row |= self.context.to_row() | self.finding.to_row()
        if self.complete:
            row["complete"] = True
        if self.config is not None:
            row["config"] = self.config
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads a row strictly.

        Raises:
            InputError: It is of another schema or of no known kind, a field is missing, or its
                values contradict each other.
        """
        if row.get("schema") != SCHEMA:
            raise InputError(
                f"schema {row.get('schema')!r}, and this version of trimlab reads schema {SCHEMA}"
            )
        kind = row.get("kind")
        if kind not in KINDS:
            raise InputError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
        try:
            cell, context = ExperimentCell.from_row(row), RunContext.from_row(row)
            finding = KINDS[kind].from_row(row)
        except InputError as error:
            raise InputError(f"{kind} {error}") from error
        finding.check()
        complete, config = bool(row.get("complete")), row.get("config")
        return cls(cell=cell, context=context, finding=finding, complete=complete, config=config)


def _check_name(field: str, value: str, known: Any) -> None:
    if value not in get_args(known):
        raise InputError(f"unknown {field} {value!r}; known: {', '.join(get_args(known))}")

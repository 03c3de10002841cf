"""A row of the results of experiments: the run, its context, and one finding."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_args

from trimlab.errors import InputError
from trimlab.records.model_result import TaskResult
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.rows import JsonObject
from trimlab.records.typed import TypedRow, nullable

SCHEMA = 1

ModelName = Literal["untrimmed", "fine_tuned", "trimmed"]
TimingMethod = Literal["full_ft", "sparse_ft", "trimllm"]


@dataclass(frozen=True, kw_only=True)
class ExperimentCell(TypedRow):
    """The run of a row, and its place in the experiment.

    Attributes:
        experiment: Name of the experiment.
        profile: Name of the profile.
        cell: Options that distinguish the run from others of the experiment, by dotted name.
        run: Id of the run: the hash of its config.
        seed: Seed of everything.
        limit: Rows per set of a rehearsal; None for a full run.
        overrides: Options of every run of the sweep (`--set`); also part of the cell.
    """

    experiment: str
    profile: str
    cell: JsonObject
    run: str
    seed: int
    limit: int | None
    overrides: JsonObject | None = None


@dataclass(frozen=True, kw_only=True)
class RunContext(TypedRow):
    """The context of a number: model, data, code, hardware.

    Attributes:
        base: The base model.
        task: The task of its training.
        prompt: Prompt format.
        row_sets: Fingerprint of every row set.
        git_commit: Commit of the code; ends in `-dirty` for uncommitted code.
        versions: Versions of the packages.
        hardware: Machine, processor, cores, GPU, Python.
        rows: Items per set.
        rows_read: Available rows, by split.
        rows_official: Rows of the splits at the source.
        rows_dropped_as_shared: Rows left out, by split.
        config_hash: Hash of the resolved config.
    """

    base: str
    task: str
    prompt: str
    row_sets: dict[str, str]
    git_commit: str | None
    versions: dict[str, str | None]
    hardware: JsonObject
    rows: dict[str, int] | None = None
    rows_read: dict[str, int] | None = None
    rows_official: dict[str, int] | None = None
    rows_dropped_as_shared: dict[str, int] | None = None
    config_hash: str | None = None

    @property
    def dirty(self) -> bool:
        """Whether the code was uncommitted."""
        return str(self.git_commit or "-dirty").endswith("-dirty")


@dataclass(frozen=True, kw_only=True)
class _Tested(TaskResult):
    """The fields of every test row.

    Attributes: those of `ModelResult`, and
        evaluated_on: The task of the test items.
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
    token_f1: float | None = None
    token_f1_stderr: float | None = None
    tokens_per_second: float | None = None
    tier: str | None = None
    bytes_on_disk: int | None = None
    dtype: str | None = None
    stored_layer_memory_ratio: float | None = None
    stored_model_memory_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Test(_Tested):
    """The test result of a model of a run.

    Attributes: those of every test row, and
        model: Name of the model in the run.
    """

    __test__ = False
    kind: ClassVar[str] = "test"
    model: ModelName

    def check(self) -> None:
        """Refuses an unknown model and contradictory answers."""
        _check_name("model", self.model, ModelName)
        super().check()


@dataclass(frozen=True, kw_only=True)
class Compressed(_Tested):
    """The test result of a model that a baseline compressed.

    Attributes: those of every test row, and
        method: Name of the baseline.
        title: Its name in papers.
        of: Name of the compressed model in the run.
        zeros: Share of zeros among the matrix entries.
    """

    kind: ClassVar[str] = "compressed"
    method: str
    title: str
    of: ModelName
    zeros: float

    def check(self) -> None:
        """Refuses an unknown model and contradictory answers."""
        _check_name("of", self.of, ModelName)
        super().check()


@dataclass(frozen=True, kw_only=True)
class Timing(TypedRow):
    """Hours of fine-tuning by scheme (Table 9).

    Attributes:
        method: Name of the scheme.
        epochs: Number of epochs.
        hours: Their wall-clock time.
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
    """A benchmark: our time, and the time of a peer (an alternative to trimlab).

    Attributes:
        bench: Name of the benchmark.
        what: Description of the timed work.
        peer: Name of the peer. None without one; all fields of the peer are None then.
        ours_seconds: Our median time.
        ours_spread: Our slowest turn less the fastest, in seconds.
        ours_turns: Seconds of every turn.
        ours_peak_bytes: Our peak memory.
        same: Comparison of the results.
        settings: Settings for a repetition.
        peer_seconds: The peer's median time, scaled by `peer_factor`.
        peer_spread: The peer's slowest turn less the fastest, scaled.
        peer_turns: Seconds of every turn, not scaled.
        peer_peak_bytes: The peer's peak memory.
        peer_factor: All of the work over the peer's part of it.
        ratio: The peer's median time over ours.
        memory_ratio: Our peak memory over the peer's.
        rates: Work over time, by name: tokens per second, operations per second and the like.
    """

    kind: ClassVar[str] = "bench"
    bench: str
    what: str
    peer: str | None
    ours_seconds: float
    ours_spread: float
    ours_turns: list[float]
    ours_peak_bytes: int
    same: JsonObject
    settings: JsonObject
    peer_seconds: float | None = None
    peer_spread: float | None = None
    peer_turns: list[float] | None = None
    peer_peak_bytes: int | None = None
    peer_factor: float | None = None
    ratio: float | None = None
    memory_ratio: float | None = None
    rates: JsonObject | None = None

    def check(self) -> None:
        """Refuses an incomplete comparison.

        Raises:
            InputError: A field of the peer is missing.
        """
        names = ("seconds", "spread", "turns", "peak_bytes", "factor")
        needed = (*(f"peer_{name}" for name in names), "ratio", "memory_ratio")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.peer is not None and missing:
            raise InputError(f"{self.kind} without {', '.join(missing)}")


Finding = OperatingPoint | Test | Compressed | Timing | Bench
KINDS: dict[str, type[Finding]] = {kind.kind: kind for kind in get_args(Finding)}


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One row of the results.

    Attributes:
        cell: The run, and its place in the experiment.
        context: Model, data, code and hardware.
        finding: The measurement.
        complete: Whether this is the last row of its run, so that none is missing.
        config: The resolved config, in the last row of a run.
    """

    cell: ExperimentCell
    context: RunContext
    finding: Finding
    complete: bool = False
    config: JsonObject | None = None

    def to_row(self) -> JsonObject:
        """The row as a JSON object."""
        row = {"schema": SCHEMA, "kind": self.finding.kind, **self.cell.to_row()}
        row |= self.context.to_row() | self.finding.to_row()
        if self.complete:
            row["complete"] = True
        if self.config is not None:
            row["config"] = self.config
        return row

    @classmethod
    def from_row(cls, row: Any) -> Self:
        """Reads a row strictly.

        Args:
            row: A parsed line of the results.

        Raises:
            InputError: The schema or the kind is unknown, a field is missing, or the values
                contradict each other.
        """
        if problem := schema_problem(row):
            raise InputError(problem)
        kind = row.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
        parts = (ExperimentCell, RunContext, KINDS[kind])
        if missing := [name for part in parts for name in part.missing(row)]:
            raise InputError(f"{kind} without {', '.join(missing)}")
        finding = KINDS[kind].from_row(row)
        finding.check()
        return cls(
            cell=ExperimentCell.from_row(row),
            context=RunContext.from_row(row),
            finding=finding,
            complete=bool(row.get("complete")),
            config=row.get("config"),
        )

    def values(self) -> JsonObject:
        """Every declared field of this kind of row by name, None included."""
        values = {"kind": self.finding.kind, "complete": self.complete, "config": self.config}
        for part in (self.cell, self.context, self.finding):
            values |= {declared.name: getattr(part, declared.name) for declared in fields(part)}
        return values


def schema_problem(row: Any) -> str | None:
    """The reason why this version cannot read a row, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if row.get("schema") != SCHEMA:
        return f"schema {row.get('schema')!r}, and this version of trimlab reads schema {SCHEMA}"
    return None


def _check_name(field: str, value: str, known: Any) -> None:
    if value not in get_args(known):
        raise InputError(f"unknown {field} {value!r}; known: {', '.join(get_args(known))}")

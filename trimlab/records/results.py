"""The strict reader of the results of experiments, `results/<experiment>.jsonl`.

A line is a `ResultRow`. Records are what the reader makes of the lines: one per measurement, with
its place in the files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trimlab.errors import InputError
from trimlab.files import read_text
from trimlab.records.result_row import KINDS, ExperimentCell, ResultRow, RunContext
from trimlab.records.rows import TIMING_FIELDS, JsonObject
from trimlab.records.typed import fits

# Rows with equal values here are the same measurement. `method`, `epochs` and `of` are fields of
# timings and of compressed models.
_MEASUREMENT = ("kind", "run", "model", "asked_ratio", "evaluated_on", "step")
_MEASUREMENT += ("method", "epochs", "of")

# Fields that may differ between two rows of the same measurement: experiment, machine and speed.
_MAY_DIFFER = TIMING_FIELDS | {
    *("experiment", "profile", "cell", "overrides", "git_commit", "versions", "hardware"),
    *("tokens_per_second", "hours"),
    # absent from rows of earlier versions
    *("rows", "rows_read", "rows_official", "rows_dropped_as_shared", "config"),
    *("token_f1", "token_f1_stderr"),
    *("dtype", "stored_layer_memory_ratio", "stored_model_memory_ratio"),
}

# Rows of an experiment with equal values here measure the same thing, perhaps in another run: a
# later version may have resolved the cell to another config.
_SUBJECT = ("experiment", "profile", "base", "task", "prompt", "cell", "seed", "limit")
_SUBJECT += ("kind", "model", "evaluated_on", "method", "epochs", "of")

# Names of the fields of all kinds of row
_DECLARED = {"kind", "complete", "config"} | {
    declared.name
    for part in (ExperimentCell, RunContext, *KINDS.values())
    for declared in fields(part)
}


@dataclass(frozen=True)
class Record:
    """A measurement, and its place in the results.

    Attributes:
        result: The typed row.
        file: Name of the file.
        line: Number of the line, from 1.
        experiments: Every experiment with this measurement.
    """

    result: ResultRow
    file: str
    line: int
    experiments: tuple[str, ...]

    def __getitem__(self, field: str) -> Any:
        """The value of a field.

        Raises:
            KeyError: Rows of this kind have no such field.
        """
        return self._values[field]

    def get(self, field: str, default: Any = None) -> Any:
        """The value of a field, or the default if this row has none.

        Raises:
            KeyError: No kind of row has such a field.
        """
        if field not in _DECLARED:
            raise KeyError(field)
        value = self._values.get(field)
        return default if value is None else value

    def entry(self, field: str, name: str, kind: Any, *default: Any) -> Any:
        """An entry of a field whose entries no schema names: `cell`, `settings`, `hardware`.

        Args:
            field: Name of the field.
            name: Name of the entry.
            kind: Its type, as `fits` reads it.
            default: The value where there is no such entry; without one, the entry is required.

        Raises:
            InputError: A required entry is missing, or it has another type.
        """
        entries = self[field]
        if name not in entries and default:
            return default[0]
        if name not in entries or not fits(entries[name], kind):
            found = f"{entries[name]!r:.40}" if name in entries else "missing"
            raise InputError(f"{self.place}: {field}: {name} is {found}")
        return entries[name]

    @property
    def row(self) -> JsonObject:
        """The row as a JSON object."""
        return self.result.to_row()

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.line}"

    @property
    def dirty(self) -> bool:
        """Whether the code was uncommitted."""
        return self.result.context.dirty

    @cached_property
    def _values(self) -> JsonObject:
        return self.result.values()


@dataclass(frozen=True)
class Series:
    """The common properties of comparable records; full runs and rehearsals are not comparable.

    Attributes:
        profile: Name of the profile.
        prompt: Prompt format.
        limit: Rows per set of a rehearsal; None for a full run.
        overrides: Options of every run of the sweep (`--set`), as text.
    """

    profile: str
    prompt: str
    limit: int | None = None
    overrides: str = ""


@dataclass(frozen=True)
class Records:
    """The measurements of all experiments, or some of them.

    Attributes:
        records: One per measurement, in the order of the files.
        notices: Messages of the reader about lines that it left out.
    """

    records: tuple[Record, ...] = ()
    notices: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Record]:
        """The records."""
        return iter(self.records)

    def __len__(self) -> int:
        """Their number."""
        return len(self.records)

    def of(self, *experiments: str) -> "Records":
        """The records of the first of these experiments that has any."""
        for experiment in experiments:
            found = tuple(r for r in self.records if experiment in r.experiments)
            if found:
                return Records(found)
        return Records()

    def where(self, **fields: Any) -> "Records":
        """The records with all of these values; a record without the field has the value None.

        Raises:
            KeyError: No kind of row has such a field.
        """
        fewest: Sequence[Record] = self.records
        for field, value in fields.items():
            if isinstance(value, str | int):
                fewest = min(fewest, self._index(field).get(value, ()), key=len)
        return Records(tuple(r for r in fewest if all(r.get(k) == v for k, v in fields.items())))

    def _index(self, field: str) -> Mapping[str | float, Sequence[Record]]:
        """The records by the value of a field, where that is a text or a number.

        Tables select records for every cell and seed: reading all of thousands of records each time
        takes minutes.
        """
        if field not in self._indices:
            index = self._indices[field] = dict[str | float, list[Record]]()
            for record in self.records:
                if isinstance(value := record.get(field), str | int | float):
                    index.setdefault(value, []).append(record)
        return self._indices[field]

    @cached_property
    def _indices(self) -> dict[str, dict[str | float, list[Record]]]:
        return {}

    def by_series(self) -> "dict[Series, Records]":
        """The records of every series; full runs first."""
        parts: dict[Series, list[Record]] = {}
        for record in self.records:
            overrides = (record.get("overrides") or {}).items()
            said = ", ".join(f"{name}={value}" for name, value in sorted(overrides))
            series = Series(record["profile"], record["prompt"], record["limit"], said)
            parts.setdefault(series, []).append(record)
        order = sorted(
            parts, key=lambda s: (s.limit is not None, s.profile, s.prompt, s.limit, s.overrides)
        )
        return {series: Records(tuple(parts[series])) for series in order}


def read_results(folder: Path) -> Records:
    """Reads every `*.jsonl` of a folder, strictly.

    Equal rows are kept once. If a cell was run again, the rows of the older run are left out. The
    half-written line of a killed process is left out, too. Each of these is a notice.

    Args:
        folder: The folder of the results.

    Raises:
        InputError: The folder is missing, a line is no row of this schema, or two rows of the same
            measurement contradict each other.
    """
    if not folder.is_dir():
        raise InputError(f"no results in {folder}: it is not a folder")
    notices: list[str] = []
    every: list[Record] = []
    first: dict[str, Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in _parse(path, notices):
            every.append(record)
            _merge(first, record, notices)
    return Records(tuple(_current(first, every, notices)), tuple(notices))


def _parse(path: Path, notices: list[str]) -> Iterator[Record]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\u" in line:  # half of a surrogate pair could not be written to a page
                json.dumps(row, ensure_ascii=False).encode()
            result = ResultRow.from_row(row)
        except json.JSONDecodeError as error:
            if line.startswith("{") and (not line.endswith("}") or error.pos == len(line)):
                notices.append(
                    f"{path.name}, line {number}: half-written by a process that was killed; "
                    "passed over (the sweep measures it again)"
                )
                continue
            raise InputError(f"{path.name}, line {number}: no JSON ({error.msg})") from error
        except (InputError, ValueError, RecursionError) as error:  # numbers of many digits, depth
            raise InputError(f"{path.name}, line {number}: {error}") from error
        yield Record(result, path.name, number, (result.cell.experiment,))


def _merge(first: dict[str, Record], record: Record, notices: list[str]) -> None:
    """Adds a record to the first ones of their measurements, or its experiment to the first one."""
    key = _measurement(record)
    known = first.setdefault(key, record)
    if known is record:
        return
    _check_equal(known, record)
    if record["experiment"] in known.experiments:
        notices.append(f"{record.place}: the same measurement as {known.place}; kept once")
    else:
        first[key] = replace(known, experiments=(*known.experiments, record["experiment"]))


def _check_equal(known: Record, record: Record) -> None:
    one, other = known.row, record.row
    differing = sorted(
        field for field in {*one, *other} - _MAY_DIFFER if one.get(field) != other.get(field)
    )
    if differing:
        raise InputError(
            f"{known.place} and {record.place} are the same measurement and contradict each other "
            f"in {', '.join(differing)}; remove the wrong one"
        )


def _measurement(record: Record) -> str:
    """Equal for rows of the same measurement. Times of different machines are different ones."""
    machine = record["hardware"] if record["kind"] == "timing" else None
    return _key(record, _MEASUREMENT, machine)


def _subject(record: Record) -> str:
    """Equal for rows of an experiment that measure the same thing, in whatever run."""
    return _key(record, _SUBJECT)


def _key(record: Record, names: tuple[str, ...], *more: Any) -> str:
    return json.dumps([*(record.get(name) for name in names), *more], sort_keys=True)


def _current(
    first: Mapping[str, Record], every: list[Record], notices: list[str]
) -> Iterator[Record]:
    """The records of the newest run of every subject.

    Args:
        first: The first record of every measurement.
        every: All records, in the order of the files.
        notices: Takes a notice for every pair of an older and a newer run.
    """
    subjects = {(_measurement(r), r["experiment"]): _subject(r) for r in every}
    newest = {_subject(r): r["run"] for r in every}
    left_out: dict[tuple[str, str], int] = {}
    for key, record in first.items():
        runs = {name: newest[subjects[key, name]] for name in record.experiments}
        current = tuple(name for name, run in runs.items() if run == record["run"])
        if current:
            yield replace(record, experiments=current)
        for run in {*runs.values()} - {record["run"]}:
            left_out[record["run"], run] = left_out.get((record["run"], run), 0) + 1
    for (old, new), count in left_out.items():
        notices.append(f"run {old}: its cell was run again as {new}; {count} older rows left out")

"""The run record: JSON lines with everything needed to trust a number.

A run writes its own record (`read_rows`, `append_row`). What an experiment found is gathered in
`results/<experiment>.jsonl`, one schema for all, which `read_results` reads strictly.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimlab.errors import InputError
from trimlab.records.rows import TIMING_FIELDS, Row
from trimlab.records.schema import _problem

# what makes two rows the same measurement; timings also have a method and epochs, compressed
# models a method and what they were made of
_SAME = ("kind", "run", "model", "asked_ratio", "evaluated_on", "step", "method", "epochs", "of")


# what may differ between two rows of the same measurement: who asked, where and how fast it ran
_MAY_DIFFER = TIMING_FIELDS | {
    *("experiment", "profile", "cell", "overrides", "git_commit", "versions", "hardware"),
    *("tokens_per_second", "hours"),
    # what earlier versions did not record
    *("rows", "rows_read", "rows_official", "rows_dropped_as_shared", "config"),
}


# the same question of an experiment, maybe asked with another config
_QUESTION = ("profile", "base", "task", "prompt", "cell", "seed", "limit")


@dataclass(frozen=True)
class Record:
    """One row of the results, and where it stands.

    Attributes:
        row: Its fields.
        file: Name of its file.
        line: Number of its line, from 1.
        experiments: Every experiment that has this row.
    """

    row: Row
    file: str
    line: int
    experiments: tuple[str, ...]

    def __getitem__(self, field: str) -> Any:
        """A field that the row must have."""
        return self.row[field]

    def get(self, field: str, default: Any = None) -> Any:
        """A field that the row may have."""
        return self.row.get(field, default)

    @property
    def where(self) -> str:
        """File and line, for people."""
        return f"{self.file}, line {self.line}"

    @property
    def dirty(self) -> bool:
        """Whether the code that measured it is in no commit."""
        return str(self.row["git_commit"] or "-dirty").endswith("-dirty")


@dataclass(frozen=True)
class Series:
    """Records that may be compared with each other: a full run is never mixed with a rehearsal.

    Attributes:
        profile: Name of the profile.
        prompt: Prompt format.
        limit: Rows per set of a rehearsal; None for a full run.
        overrides: What every run of a sweep was told besides (`--set`), as text.
    """

    profile: str
    prompt: str
    limit: int | None = None
    overrides: str = ""


@dataclass(frozen=True)
class Records:
    """The rows of all experiments.

    Attributes:
        records: One per measurement, in the order of the files.
        notices: What the reader passed over, and why.
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
        """The records that have all of these values."""
        return Records(
            tuple(r for r in self.records if all(r.get(k) == v for k, v in fields.items()))
        )

    def by_series(self) -> "dict[Series, Records]":
        """The records apart by what may be compared; full runs first."""
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

    Rows that say the same are kept once, and a row of an older run of the same cell gives way to
    the newer one; both are noted. The half-written line of a killed process is passed over.

    Args:
        folder: The folder of the results.

    Raises:
        InputError: The folder is missing, a line is no row of this schema, or two rows of the same
            measurement contradict each other.
    """
    if not folder.is_dir():
        raise InputError(f"no results in {folder}: it is not a folder")
    notices: list[str] = []
    first: dict[str, Record] = {}
    # what a measurement answers, by itself and its experiment, and the last run that does
    questions: dict[tuple[str, str], str] = {}
    newest: dict[str, str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in _parse(path, notices):
            machine = record["hardware"] if record["kind"] == "timing" else None
            key = json.dumps([*(record.get(field) for field in _SAME), machine], sort_keys=True)
            question = questions[key, record["experiment"]] = _question(record)
            newest[question] = record["run"]
            known = first.setdefault(key, record)
            if known is record:
                continue
            _same_or_error(known, record)
            if record["experiment"] in known.experiments:
                notices.append(f"{record.where}: the same measurement as {known.where}; kept once")
            else:
                first[key] = replace(known, experiments=(*known.experiments, record["experiment"]))
    current = tuple(_newest(first, questions, newest, notices))
    return Records(current, tuple(notices))


def _parse(path: Path, notices: list[str]) -> Iterator[Record]:
    for number, line in enumerate(path.read_text().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if line.startswith("{") and (not line.endswith("}") or error.pos == len(line)):
                notices.append(
                    f"{path.name}, line {number}: half-written by a process that was killed; "
                    "passed over (the sweep measures it again)"
                )
                continue
            raise InputError(f"{path.name}, line {number}: no JSON ({error.msg})") from error
        problem = _problem(row)
        if problem:
            raise InputError(f"{path.name}, line {number}: {problem}")
        yield Record(row, path.name, number, (row["experiment"],))


def _same_or_error(known: Record, record: Record) -> None:
    fields = {*known.row, *record.row} - _MAY_DIFFER
    differing = sorted(f for f in fields if known.get(f) != record.get(f))
    if differing:
        raise InputError(
            f"{known.where} and {record.where} are the same measurement and contradict each other "
            f"in {', '.join(differing)}; remove the wrong one"
        )


def _question(record: Record) -> str:
    """What a record answers for its experiment; another may ask the same of another cell."""
    asked = [*_QUESTION, "kind", "model", "evaluated_on", "method", "epochs", "of"]
    said = [record.get(field) for field in asked]
    return json.dumps([record["experiment"], *said], sort_keys=True)


def _newest(
    first: Mapping[str, Record],
    questions: Mapping[tuple[str, str], str],
    newest: Mapping[str, str],
    notices: list[str],
) -> Iterator[Record]:
    """Leaves out what an experiment has run again: with another config, or to time it anew."""
    left_out: dict[tuple[str, str], int] = {}
    for key, record in first.items():
        runs = {name: newest[questions[key, name]] for name in record.experiments}
        current = tuple(name for name, run in runs.items() if run == record["run"])
        if current:
            yield replace(record, experiments=current)
        for run in {*runs.values()} - {record["run"]}:
            left_out[record["run"], run] = left_out.get((record["run"], run), 0) + 1
    for (old, new), count in left_out.items():
        notices.append(f"run {old}: its cell was run again as {new}; {count} older rows left out")

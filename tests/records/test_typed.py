"""Typed rows: what is written is read back, and committed rows are written as they are."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trimlab.errors import InputError
from trimlab.records.result_row import ResultRow
from trimlab.records.rows import read_rows
from trimlab.records.typed import TypedRow, nullable, renamed

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FILES = [*sorted((ROOT / "results").glob("*.jsonl")), *sorted((GOLDEN / "records").glob("*.jsonl"))]


@dataclass(frozen=True, kw_only=True)
class Example(TypedRow):
    name: str
    known: float | None
    optional: int | None = None
    always: int | None = nullable()
    names: list[str] = field(default_factory=list, metadata=renamed("titles"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_committed_row_is_written_as_it_was_read(path: Path) -> None:
    rows = read_rows(path)
    assert rows
    for row in rows:
        assert ResultRow.from_row(row).to_row() == row


def test_the_golden_records_are_those_of_their_script(tmp_path: Path) -> None:
    script = [sys.executable, GOLDEN / "make_records.py", tmp_path]
    subprocess.run(script, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in (GOLDEN / "records").iterdir()}


def test_none_is_written_only_where_it_says_something() -> None:
    row = Example(name="a", known=None).to_row()
    assert row == {"name": "a", "known": None, "always": None, "names": []}


def test_what_is_written_is_read_back() -> None:
    example = Example(name="a", known=1.5, optional=2, always=3, names=["b"])
    assert Example.from_row(json.loads(json.dumps(example.to_row()))) == example


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, Example(name="a", known=1.0)),
        ({"titles": ["b"]}, Example(name="a", known=1.0, names=["b"])),
        ({"titles": ["b"], "names": ["c"]}, Example(name="a", known=1.0, names=["c"])),
        ({"other": 1}, Example(name="a", known=1.0)),
    ],
    ids=["an earlier row", "an old name", "both names", "a field of others"],
)
def test_earlier_rows_are_read(row: dict[str, Any], expected: Example) -> None:
    assert Example.from_row({"name": "a", "known": 1.0, **row}) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"name": 1},
        {"known": "1.5"},
        {"known": True},
        {"optional": 1.5},
        {"names": "b"},
        {"names": [1]},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_named(row: dict[str, Any]) -> None:
    (name,) = row
    with pytest.raises(InputError, match=f"{name} cannot be"):
        Example.from_row({"name": "a", "known": 1, **row})
    with pytest.raises(InputError, match="must be a JSON object"):
        Example.from_row([row])  # type: ignore[arg-type]


def test_missing_fields_are_named() -> None:
    with pytest.raises(InputError, match="without name, known"):
        Example.from_row({"optional": 1})

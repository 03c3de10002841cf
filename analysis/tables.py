"""A table as data; `markdown.py`, `latex.py` and `page.py` write it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from analysis.holm import holm
from analysis.measurements import Measurement
from analysis.paper import number
from trimlab.records.results import Record

MISSING = "—"
Part = Literal["paper", "measured", "difference", "text"]
ALL_PARTS: tuple[Part, ...] = ("paper", "measured", "difference")
# Marks of a paired test by its p-value, the strongest first
MARKS = ((0.01, "‡"), (0.05, "†"))
FOOTNOTE = (
    "± is the standard error over seeds and items. Differs from fine-tuning at full depth with as "
    "many optimizer steps (exact McNemar test on the same items, corrected by Holm for the "
    "tests of the table): † p < 0.05, ‡ p < 0.01. ¹: one seed, which is no finding. "
    "(dirty): with code that is in no commit. "
    f"Bold: best of its column. {MISSING}: not published, or not measured."
)


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its title.
        better: Whether high or low values are best; None without a best (bold) value.
        decimals: Digits after the point.
        parts: The parts of a cell, side by side.
    """

    title: str
    better: Literal["high", "low"] | None = "high"
    decimals: int = 1
    parts: tuple[Part, ...] = ALL_PARTS


@dataclass(frozen=True)
class Cell:
    """A published and a measured value of the same thing; either may be missing.

    Attributes:
        paper: The published value, or another value for comparison.
        measured: The measured value.
        text: Text of a cell without numbers.
    """

    paper: str | None = None
    measured: Measurement | None = None
    text: str | None = None

    @property
    def difference(self) -> float | None:
        """Measured less published."""
        published = number(self.paper)
        if published is None or self.measured is None:
            return None
        return self.measured.mean - published

    def value(self, part: Part) -> float | None:
        """A part as a number."""
        if part == "measured":
            return self.measured.mean if self.measured else None
        if part == "difference":
            return self.difference
        return number(self.paper) if part == "paper" else None


@dataclass(frozen=True)
class TableRow:
    """A row.

    Attributes:
        title: Its title.
        cells: By column key.
        competes: Whether it can be the best of a column.
    """

    title: str
    cells: dict[str, Cell]
    competes: bool = True


@dataclass(frozen=True)
class Group:
    """Rows under a common title; the best values are those of a group.

    Attributes:
        title: Its title, or an empty string.
        rows: Its rows.
    """

    title: str
    rows: list[TableRow]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Its title.
        caption: Description of the comparison.
        columns: By key.
        groups: Its rows.
        footnote: Legend of the marks.
        beside: Head of the values beside the measured ones.
    """

    title: str
    caption: str
    columns: dict[str, Column]
    groups: list[Group] = field(default_factory=list)
    footnote: str = FOOTNOTE
    beside: str = "paper"

    def cells(self) -> Iterator[tuple[Group, TableRow, str, Cell]]:
        """Every cell of every column, with its group, row and column key."""
        for group in self.groups:
            for row in group.rows:
                for key in self.columns:
                    yield group, row, key, row.cells.get(key, Cell())

    def corrected(self) -> "Table":
        """The table with its paired tests corrected by Holm for their number.

        One seed is no finding: its tests are neither corrected nor counted.
        """
        tested = [
            (row, key, cell, cell.measured, cell.measured.test)
            for _, row, key, cell in self.cells()
            if cell.measured and cell.measured.test and not cell.measured.one_seed
        ]
        ps = holm([test.p for *_, test in tested])
        cells = {
            (id(row), key): replace(cell, measured=replace(measured, test=replace(test, p_holm=p)))
            for (row, key, cell, measured, test), p in zip(tested, ps, strict=True)
        }

        def changed(row: TableRow) -> TableRow:
            now = {key: cells.get((id(row), key), cell) for key, cell in row.cells.items()}
            return replace(row, cells=now)

        groups = [replace(group, rows=[*map(changed, group.rows)]) for group in self.groups]
        return replace(self, groups=groups)

    def is_best(self, group: Group, row: TableRow, key: str, part: Part) -> bool:
        """Whether a part of a cell is the best of its group, after rounding.

        Args:
            group: The group.
            row: One of its rows.
            key: Key of the column.
            part: Part of the cell.
        """
        column = self.columns[key]
        shown = [
            round(value, column.decimals)
            for other in group.rows
            if other.competes and (value := other.cells.get(key, Cell()).value(part)) is not None
        ]
        value = row.cells.get(key, Cell()).value(part)
        if not row.competes or part == "difference" or value is None or len(shown) < 2:
            return False
        best = {"high": max, "low": min}.get(column.better or "")
        return best is not None and round(value, column.decimals) == best(shown)

    def text(self, key: str, cell: Cell, part: Part) -> str:
        """A part of a cell of a column as text, without marks."""
        decimals = self.columns[key].decimals
        if part == "paper":
            return cell.paper or MISSING
        if part == "text":
            return cell.text or MISSING
        value = cell.value(part)
        if value is None:
            return MISSING
        if part == "difference":
            return f"{value:+.{decimals}f}".replace("-", "−")
        stderr = cell.measured.stderr if cell.measured else None
        spread = "" if stderr is None else f" ± {stderr:.{decimals}f}"
        return f"{value:.{decimals}f}{spread}"

    def head(self, part: Part) -> str:
        """The head of a part of a column; empty for texts."""
        return {"paper": self.beside, "measured": "measured", "difference": "Δ", "text": ""}[part]

    def as_json(self) -> dict[str, Any]:
        """The content of the table as JSON."""
        return {
            "title": self.title,
            "caption": self.caption,
            "columns": {key: column.title for key, column in self.columns.items()},
            "cells": [
                {
                    "group": group.title,
                    "row": row.title,
                    "column": key,
                    "paper": cell.paper,
                    "measured": cell.measured and _measured(cell.measured),
                    "difference": cell.difference,
                    **({} if cell.text is None else {"text": cell.text}),
                }
                for group, row, key, cell in self.cells()
            ],
        }


def marks(measured: Measurement | None) -> list[str]:
    """The mark of the paired test or of a single seed, and the mark of uncommitted code."""
    if measured is None:
        return []
    found = ["¹"] if measured.one_seed else []
    if measured.test and measured.test.p_holm is not None:
        found += [mark for level, mark in MARKS if measured.test.p_holm < level][:1]
    if measured.dirty:
        found.append(" (dirty)")
    return found


def anchor(record: Record) -> str:
    """The anchor of a record in the page."""
    return f"{record.file.removesuffix('.jsonl')}-{record.line}"


def _measured(measured: Measurement) -> dict[str, Any]:
    test = measured.test
    return {
        "mean": measured.mean,
        "stderr": measured.stderr,
        "stderr_items": measured.stderr_items,
        "stderr_seeds": measured.stderr_seeds,
        "n": measured.n,
        "records": [anchor(record) for record in measured.records],
        "dirty": measured.dirty,
        "test": test and vars(test),
        "further": measured.extra_metrics,
        "flat_stability": measured.flat_stability,
    }

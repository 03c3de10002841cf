"""A table as data, and the Markdown, LaTeX and JSON it becomes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from analysis.measurements import FURTHER, Measurement
from analysis.paper import number
from trimlab.records.results import Record

MISSING = "—"
Part = Literal["paper", "measured", "difference", "text"]
ALL_PARTS: tuple[Part, ...] = ("paper", "measured", "difference")
# marks of a paired test, from the strongest on
MARKS = ((0.01, "‡"), (0.05, "†"))
FOOTNOTE = (
    "± is the standard error over seeds and items. Differs from fine-tuning at full depth with as "
    "many optimizer steps (exact McNemar test on the same items): † p < 0.05, ‡ p < 0.01. "
    "(dirty): with code that is in no commit. "
    f"Bold: best of its column. {MISSING}: not published, or not measured."
)
STABILITY = (
    "Stability (LLM-Streamline): the weight of the items that this model and the untrimmed one "
    "both answer right or both wrong. The weights are a softmax of how far apart the untrimmed "
    "model's perplexities of an item's choices are. Where these are large, as of short choices, "
    "all of the weight can lie on one item: then it is 0 or 1, and says nothing of the others."
)


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its title.
        better: Which values are best, and so bold.
        decimals: Digits after the point.
        parts: What is shown side by side.
    """

    title: str
    better: Literal["high", "low"] | None = "high"
    decimals: int = 1
    parts: tuple[Part, ...] = ALL_PARTS


@dataclass(frozen=True)
class Cell:
    """A published and a measured value of the same thing, either of which may be missing.

    Attributes:
        paper: The published one, or what else stands beside the measured one.
        measured: The measured one.
        text: What stands there instead, where words say it.
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
    """A row; it may be best of a column only if it competes."""

    title: str
    cells: dict[str, Cell]
    competes: bool = True


@dataclass(frozen=True)
class Group:
    """Rows under a title of their own, among which the best are found."""

    title: str
    rows: list[TableRow]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Its title.
        caption: What is compared, and how.
        columns: By key.
        groups: Its rows.
        footnote: What the marks mean.
        beside: What stands beside measured values.
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

    def is_best(self, group: Group, row: TableRow, key: str, part: Part) -> bool:
        """Whether a part of a cell is the best of the competing rows of its group, as shown."""
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
        """A part of a cell as text, without marks."""
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
        """What stands above a part; above words, nothing but the title of the column."""
        return {"paper": self.beside, "measured": "measured", "difference": "Δ", "text": ""}[part]

    # ---- what it becomes ----------------------------------------------------------------------

    def markdown(self) -> str:
        """Its parts side by side in every cell, then every measured cell in full."""
        heads = [
            "",
            *(
                "<br>".join(filter(None, (c.title, " \\| ".join(map(self.head, c.parts)))))
                for c in self.columns.values()
            ),
        ]
        lines = [_line(heads), _line(["---"] * len(heads))]
        for group in self.groups:
            if group.title:
                lines.append(_line([f"*{group.title}*", *[""] * len(self.columns)]))
            for row in group.rows:
                lines.append(
                    _line([row.title, *(self._parts(group, row, k) for k in self.columns)])
                )
        detail = self.detail()
        text = f"{self.caption}\n\n" + "\n".join(lines) + f"\n\n{self.footnote}\n"
        if detail:
            text += "\nThe measured cells in full:\n\n" + "\n".join(
                [_line(list(detail[0])), _line(["---"] * len(detail[0]))]
                + [_line(list(entry.values())) for entry in detail]
            )
            text += "\n"
            if any(entry["stability"] != MISSING for entry in detail):
                text += f"\n{STABILITY}\n"
        return text

    def latex(self) -> str:
        """A booktabs table."""
        spec = "l" + "".join("r" * len(c.parts) for c in self.columns.values())
        heads, rules, subheads, at = [], [], [], 2
        for column in self.columns.values():
            width = len(column.parts)
            heads.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(column.title)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            subheads += [_tex(self.head(part)) for part in column.parts]
            at += width
        lines = [
            "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(self.title)}. {_tex(self.caption)} {_tex(self.footnote)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            " & ".join(["", *heads]) + r" \\",
            "".join(rules),
            " & ".join(["", *subheads]) + r" \\",
        ]
        for group in self.groups:
            lines.append(r"\midrule")
            if group.title:
                lines.append(rf"\multicolumn{{{at - 1}}}{{l}}{{\emph{{{_tex(group.title)}}}}} \\")
            for row in group.rows:
                parts = [
                    self._tex_part(group, row, key, part)
                    for key, column in self.columns.items()
                    for part in column.parts
                ]
                lines.append(" & ".join([_tex(row.title), *parts]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
        return "\n".join(lines)

    def detail(self) -> list[dict[str, str]]:
        """Every measured accuracy with all that is known about it."""
        entries = []
        for group, row, key, cell in self.cells():
            measured = cell.measured
            if measured is None or measured.n is None:
                continue
            test, further = measured.test, measured.further or {}
            entries.append(
                {
                    "model": f"{group.title}: {row.title}" if group.title else row.title,
                    "on": self.columns[key].title,
                    "mean": f"{measured.mean:.2f}",
                    "± items": _decimal(measured.stderr_items),
                    "± seeds": _decimal(measured.stderr_seeds),
                    "n": str(measured.n),
                    "seeds": ", ".join(str(record["seed"]) for record in measured.records),
                    "steps": ", ".join(
                        str(steps)
                        for steps in sorted({r["optimizer_steps"] for r in measured.records})
                    ),
                    "won : lost": f"{test.won} : {test.lost}" if test else MISSING,
                    "p": f"{test.p:.2g}" if test else MISSING,
                    "against": test.against if test else MISSING,
                    **{name.replace("_", " "): _decimal(further.get(name)) for name in FURTHER},
                    "tree": "dirty" if measured.dirty else "clean",
                }
            )
        return entries

    def as_json(self) -> dict[str, Any]:
        """Everything that is shown, for programs and tests."""
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

    def save(self, stem: Path) -> None:
        """Writes `stem`.md, .tex and .json."""
        stem.with_suffix(".md").write_text(f"# {self.title}\n\n{self.markdown()}")
        stem.with_suffix(".tex").write_text(self.latex())
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        stem.with_suffix(".json").write_text(text + "\n")

    # ---- inside -------------------------------------------------------------------------------

    def _parts(self, group: Group, row: TableRow, key: str) -> str:
        cell = row.cells.get(key, Cell())
        texts = []
        for part in self.columns[key].parts:
            text = self.text(key, cell, part)
            if self.is_best(group, row, key, part):
                text = f"**{text}**"
            if part == "measured":
                text += "".join(marks(cell.measured))
            texts.append(text)
        return " \\| ".join(texts)

    def _tex_part(self, group: Group, row: TableRow, key: str, part: Part) -> str:
        cell = row.cells.get(key, Cell())
        text = _tex(self.text(key, cell, part))
        if self.is_best(group, row, key, part):
            text = rf"\textbf{{{text}}}"
        if part == "measured":
            text += "".join(_tex(mark) for mark in marks(cell.measured))
        return text


def marks(measured: Measurement | None) -> list[str]:
    """The mark of the paired test, and whether code of no commit measured it."""
    if measured is None:
        return []
    found = []
    if measured.test:
        found += [mark for level, mark in MARKS if measured.test.p < level][:1]
    if measured.dirty:
        found.append(" (dirty)")
    return found


def anchor(record: Record) -> str:
    """Name of a record in the page."""
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
        "test": test and {"won": test.won, "lost": test.lost, "p": test.p, "against": test.against},
        "further": measured.further,
    }


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


# what has another meaning, or no letter, in LaTeX
_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "—": "---",
    "→": r"$\rightarrow$",
    "<": r"$<$",
    ">": r"$>$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)

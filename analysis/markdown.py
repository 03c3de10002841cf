"""A table as Markdown."""

from collections.abc import Iterable

from analysis.detail import FLAT, STABILITY, detail
from analysis.tables import MISSING, Cell, Column, Group, Table, TableRow, marks


def markdown(table: Table) -> str:
    """Caption, table, footnote and, below them, every measured accuracy in full.

    Args:
        table: The table.
    """
    heads = ["", *(_head(table, column) for column in table.columns.values())]
    lines = [_line(heads), _rule(heads)]
    for group in table.groups:
        if group.title:
            lines.append(_line([f"*{shown(group.title)}*", *[""] * len(table.columns)]))
        for row in group.rows:
            lines.append(
                _line([shown(row.title), *(_cell(table, group, row, k) for k in table.columns)])
            )
    text = f"{table.caption}\n\n" + "\n".join(lines) + f"\n\n{table.footnote}\n"
    return text + _in_full(detail(table))


def shown(text: str) -> str:
    """A text of a record as Markdown shows it: no markup, no end of its cell."""
    for char, written in (("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(char, written)
    return text


def _head(table: Table, column: Column) -> str:
    parts = " \\| ".join(map(table.head, column.parts))
    return "<br>".join(filter(None, (column.title, parts)))


def _cell(table: Table, group: Group, row: TableRow, key: str) -> str:
    cell = row.cells.get(key, Cell())
    texts = []
    for part in table.columns[key].parts:
        text = table.text(key, cell, part)
        if table.is_best(group, row, key, part):
            text = f"**{text}**"
        if part == "measured":
            text += "".join(marks(cell.measured))
        texts.append(text)
    return " \\| ".join(texts)


def _in_full(entries: list[dict[str, str]]) -> str:
    if not entries:
        return ""
    lines = [
        _line(entries[0]),
        _rule(entries[0]),
        *(_line(map(shown, entry.values())) for entry in entries),
    ]
    text = "\n<details><summary>The measured cells in full</summary>\n\n"
    text += "\n".join(lines) + "\n"
    if any(entry.get(FLAT, MISSING) != MISSING for entry in entries):
        text += f"\n{STABILITY}\n"
    return text + "\n</details>\n"


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _rule(heads: Iterable[str]) -> str:
    return _line("---" for _ in heads)

"""A table on the page."""

import html

from analysis.detail import FLAT, STABILITY, detail
from analysis.measurements import Measurement
from analysis.tables import MISSING, Cell, Group, Part, Table, TableRow, anchor, marks
from trimlab.records.results import Record


def table_html(table: Table) -> str:
    """The table, its footnote and, folded, its measured cells in full.

    Args:
        table: The table.
    """
    heads = "".join(
        f'<th colspan="{len(column.parts)}" class="first">{html.escape(column.title)}</th>'
        for column in table.columns.values()
    )
    subheads = "".join(
        f"<th{_first(i)}>{html.escape(table.head(part))}</th>"
        for column in table.columns.values()
        for i, part in enumerate(column.parts)
    )
    width = 1 + sum(len(column.parts) for column in table.columns.values())
    body = ""
    for group in table.groups:
        if group.title:
            body += f'<tr class="group"><th colspan="{width}">{html.escape(group.title)}</th></tr>'
        for row in group.rows:
            cells = "".join(
                _cell(table, group, row, key, part=part, first=i == 0)
                for key, column in table.columns.items()
                for i, part in enumerate(column.parts)
            )
            body += f"<tr><th>{html.escape(row.title)}</th>{cells}</tr>\n"
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr>'
        f"<tr><th></th>{subheads}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="footnote">{html.escape(table.footnote)}</p>{_detail(table)}'
    )


def _cell(table: Table, group: Group, row: TableRow, key: str, *, part: Part, first: bool) -> str:
    cell = row.cells.get(key, Cell())
    text = table.text(key, cell, part)
    names = ["first"] if first else []
    if text == MISSING:
        names.append("missing")
    elif table.is_best(group, row, key, part):
        names.append("best")
    inner = html.escape(text)
    if part == "measured" and cell.measured:
        inner = _measured(inner, cell.measured)
    return f'<td class="{" ".join(names)}">{inner}</td>'


def _measured(text: str, measured: Measurement) -> str:
    """A number with a link to its record or, for several seeds, to each record."""
    first, *others = measured.records
    hint = [f"{len(measured.records)} seed(s)", *([f"n = {measured.n}"] if measured.n else [])]
    if measured.test:
        test = measured.test
        hint.append(f"{test.won} won, {test.lost} lost against {test.against}, p = {test.p:.2g}")
    shown = f'<a href="#{_id(first)}" title="{html.escape("; ".join(hint))}">{text}</a>'
    shown += html.escape("".join(marks(measured)))
    if others and measured.n:
        links = " ".join(f'<a href="#{_id(r)}">{r["seed"]}</a>' for r in measured.records)
        shown += f" <small>s{links}</small>"
    return shown


def _id(record: Record) -> str:
    return html.escape(anchor(record))


def _detail(table: Table) -> str:
    entries = detail(table)
    if not entries:
        return ""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in entries[0])
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in entry.values()) + "</tr>"
        for entry in entries
    )
    stable = any(entry.get(FLAT, MISSING) != MISSING for entry in entries)
    note = f'<p class="footnote">{html.escape(STABILITY)}</p>' if stable else ""
    return (
        "<details><summary>the measured cells in full</summary>"
        f'<div class="scroll"><table><tr>{heads}</tr>{rows}</table></div>{note}</details>'
    )


def _first(place: int) -> str:
    return ' class="first"' if place == 0 else ""

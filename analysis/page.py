"""The page of the report: one HTML file that needs no network."""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from analysis.detail import detail
from analysis.figures import Figure
from analysis.measurements import Measurement
from analysis.names import series_title
from analysis.tables import MISSING, Cell, Group, Part, Table, TableRow, anchor, marks
from trimlab.records.results import Record, Records, Series

LEGEND = (
    "A difference is measured less published. The published models are far larger than those "
    "that a small machine can measure: read the order of the methods before the values."
)


@dataclass(frozen=True)
class Entry:
    """A table or figure of one series, and the name of its files.

    Attributes:
        name: File name without its ending; also its anchor.
        series: The series of its records; None without records.
        result: The table or figure.
    """

    name: str
    series: Series | None
    result: Table | Figure


def write_page(path: Path, entries: list[Entry], records: Records, figures: Path) -> None:
    """Writes the page.

    Args:
        path: The HTML file.
        entries: Its tables and figures, in order.
        records: Its records.
        figures: Folder of the drawn figures.
    """
    interactive: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry.result, Figure) and entry.result.interactive:
            plot = entry.result.interactive(entry.result.data)
            if plot["data"]:
                interactive[f"plot-{entry.name}"] = plot
    template = Template((Path(__file__).parent / "page.html").read_text())
    page = template.substitute(
        count=len(records),
        legend=LEGEND,
        navigation=_navigation(entries) + '<a href="#records">Records</a>',
        notices=_notices(records.notices),
        sections="\n".join(_section(e, figures, f"plot-{e.name}" in interactive) for e in entries),
        records=_records(records),
        plotly=get_plotlyjs(),
        # `</script` would end the script that holds it, and `<!--` the page
        figures=json.dumps(interactive).replace("<", "\\u003c"),
    )
    path.write_text(page)


def _navigation(entries: Sequence[Entry]) -> str:
    titles = [entry.result.title.partition(":")[0] for entry in entries]
    links = []
    for entry, title in zip(entries, titles, strict=True):
        profile, limit = (entry.series.profile, entry.series.limit) if entry.series else ("", None)
        suffix = f" {profile}" if titles.count(title) > 1 else ""
        suffix += " (rehearsal)" if limit is not None else ""
        links.append(f'<a href="#{entry.name}">{html.escape(title + suffix)}</a> ')
    return "".join(links)


def _notices(notices: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(notice)}</li>" for notice in notices)
    return f'<div class="notices"><b>While reading the records:</b><ul>{items}</ul></div>' * bool(
        items
    )


def _section(entry: Entry, figures: Path, interactive: bool) -> str:
    result = entry.result
    badge = '<span class="badge soft">not measured yet</span>'
    if entry.series:
        warning = "" if entry.series.limit is not None else " soft"
        badge = f'<span class="badge{warning}">{html.escape(series_title(entry.series))}</span>'
    head = f'<h2 id="{entry.name}">{html.escape(result.title)} {badge}</h2>'
    head += f'<p class="caption">{html.escape(result.caption)}</p>'
    if isinstance(result, Table):
        return head + _table(result)
    image = base64.b64encode((figures / f"{entry.name}.png").read_bytes()).decode()
    drawn = f'<img alt="{html.escape(result.title)}" src="data:image/png;base64,{image}">'
    plot = f'<div class="plot" id="plot-{entry.name}"></div>' if interactive else ""
    names = map(html.escape, dict.fromkeys(_anchors(result.data)))
    links = "".join(f'<a href="#{name}">{name}</a> ' for name in names)
    sources = f"<details><summary>the records behind it</summary>{links}</details>" if links else ""
    return f"{head}<figure>{drawn}</figure>{plot}{sources}"


def _anchors(data: Any) -> Iterable[str]:
    """The anchors of the records in the data of a figure."""
    if isinstance(data, list):
        for entry in data:
            yield from _anchors(entry)
    elif isinstance(data, dict):
        for key, value in data.items():
            if key == "record":
                yield value
            elif key == "records":
                yield from value
            else:
                yield from _anchors(value)


# ---- tables -----------------------------------------------------------------------------------


def _table(table: Table) -> str:
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
    return (
        "<details><summary>the measured cells in full</summary>"
        f'<div class="scroll"><table><tr>{heads}</tr>{rows}</table></div></details>'
    )


def _first(place: int) -> str:
    return ' class="first"' if place == 0 else ""


# ---- records ----------------------------------------------------------------------------------


def _records(records: Records) -> str:
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        runs.setdefault((record.file, record["run"]), []).append(record)
    parts = []
    for (file, run), rows in runs.items():
        first = rows[0]
        badges = '<span class="badge">dirty tree</span> ' if any(r.dirty for r in rows) else ""
        if first["limit"] is not None:
            badges += f'<span class="badge">rehearsal, {first["limit"]} rows</span> '
        cell = ", ".join(f"{key} = {value}" for key, value in first["cell"].items())
        summary = html.escape(
            f"{file}: {first['base']} on {first['task']}, {cell or 'no override'}, "
            f"seed {first['seed']}, run {run}, commit {first['git_commit']}"
        )
        inner = "".join(_record(record) for record in rows)
        parts.append(f"<details><summary>{badges}{summary}</summary>{inner}</details>")
    return "\n".join(parts) or "<p>None.</p>"


def _record(record: Record) -> str:
    text = html.escape(json.dumps(record.row, ensure_ascii=False))
    return (
        f'<details id="{_id(record)}"><summary>{html.escape(_summary(record))}</summary>'
        f"<pre>{text}</pre></details>"
    )


def _summary(record: Record) -> str:
    kind = record["kind"]
    if kind in ("test", "compressed"):
        model = record["model"] if kind == "test" else f"{record['title']} of {record['of']}"
        said = f"{model} on {record['evaluated_on']}: {record['value']:.2f}"
        return f"{record.place}: {said} ± {record['stderr']:.2f}, n = {record['n']}"
    if kind == "operating_point":
        ratio = f"{100 * record['layer_memory_ratio']:.1f} % of the layer memory"
        return f"{record.place}: operating point {record['step']}, {ratio}, dev {record['dev']:.2f}"
    if kind == "bench":
        said = f"{record['bench']}, {record['what']}: {record['ours_seconds']:.2f} s"
        peer = f", {record['peer']} {record['peer_seconds']:.2f} s" if record["peer"] else ""
        return f"{record.place}: {said}{peer}"
    return f"{record.place}: {record['method']}, {record['epochs']} epochs, {record['hours']:.3g} h"

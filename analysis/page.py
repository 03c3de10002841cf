"""The page of the report: one HTML file that needs no network."""

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from analysis._page_findings import findings_html, summary_html
from analysis._page_records import records_html
from analysis._page_tables import table_html
from analysis.contents import Contents, Entry
from analysis.coverage import Coverage, coverage_line
from analysis.figures import Figure
from analysis.names import series_title
from analysis.tables import Table

LEGEND = (
    "A difference is measured less published. The published models are far larger than those "
    "that a small machine can measure: read the order of the methods before the values."
)


def write_page(path: Path, contents: Contents, figures: Path) -> None:
    """Writes the page: a summary, and below it everything else, folded.

    Args:
        path: The HTML file.
        contents: What it shows.
        figures: Folder of the drawn figures.
    """
    interactive: dict[str, Any] = {}
    for entry in contents.entries:
        if isinstance(entry.result, Figure) and entry.result.interactive:
            plot = entry.result.interactive(entry.result.data)
            if plot["data"]:
                interactive[f"plot-{entry.name}"] = plot
    template = Template((Path(__file__).parent / "page.html").read_text())
    groups = groupby(contents.entries, key=lambda entry: entry.of)
    page = template.substitute(
        count=len(contents.records),
        legend=LEGEND,
        coverage=coverage_line(list(contents.coverage.values())),
        answers=summary_html(contents.findings),
        findings=findings_html(contents.findings),
        sections="\n".join(
            _section(of, list(mine), contents.coverage.get(of), figures, interactive)
            for of, mine in groups
        ),
        records=records_html(contents.records),
        passed_over=_passed_over(contents.records.notices),
        notices=len(contents.records.notices),
        plotly=get_plotlyjs(),
        # `</script` would end the script that holds it, and `<!--` the page
        figures=json.dumps(interactive).replace("<", "\\u003c"),
    )
    path.write_text(page)


def _passed_over(notices: Iterable[str]) -> str:
    return "".join(f"<li>{html.escape(notice)}</li>" for notice in notices)


def _section(
    of: str,
    entries: Sequence[Entry],
    counts: Coverage | None,
    figures: Path,
    interactive: dict[str, Any],
) -> str:
    """A table or figure, folded, with all of its series below one another."""
    badges = "".join(_badge(entry, counts) for entry in entries)
    title = html.escape(entries[0].result.title)
    parts = "".join(
        _entry(entry, figures, f"plot-{entry.name}" in interactive) for entry in entries
    )
    return (
        f'<details class="result" id="of-{of}"><summary><b>{title}</b> {badges}</summary>'
        f"{parts}</details>"
    )


def _badge(entry: Entry, counts: Coverage | None) -> str:
    """The series of a table or figure, and how many of the paper's cells it has."""
    if not entry.series:
        return '<span class="badge soft">not measured yet</span> '
    text = series_title(entry.series)
    if counts and entry.series.limit is None:
        text += f" {counts.measured.get(entry.series, 0)}/{counts.cells}"
    kind = "badge" if entry.series.limit is not None else "badge soft"
    return f'<span class="{kind}">{html.escape(text)}</span> '


def _entry(entry: Entry, figures: Path, interactive: bool) -> str:
    result = entry.result
    series = series_title(entry.series) if entry.series else "not measured yet"
    head = f'<h3 id="{entry.name}">{html.escape(series)}</h3>'
    head += f'<p class="caption">{html.escape(result.caption)}</p>'
    note = re.sub("`(.+)`", r"<code>\1</code>", html.escape(entry.note))
    head += f'<p class="footnote">{note}</p>' if note else ""
    if isinstance(result, Table):
        return head + table_html(result)
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

"""The report: findings, tables, figures, the page, and RESULTS.md."""

import json
from pathlib import Path

from analysis import results
from analysis.commands import PROFILE, measuring
from analysis.contents import Contents, Entry
from analysis.coverage import Coverage, coverage, coverage_line
from analysis.figures import Figure
from analysis.findings import find
from analysis.findings_markdown import findings_markdown, summary_markdown
from analysis.latex import latex
from analysis.markdown import markdown, shown
from analysis.names import series_slug, series_title
from analysis.page import LEGEND, write_page
from analysis.paper import read_paper
from analysis.tables import Table
from trimlab.files import write_text
from trimlab.plugins import plugin_module
from trimlab.records.results import Records, Series, read_results


def write_report(out: Path, folder: Path) -> list[str]:
    """Builds the report.

    Args:
        out: Folder for `index.html`, the Markdown files, `tables/` and `figures/`.
        folder: Folder of the records.

    Returns:
        Notices of the reader about lines that it left out.

    Raises:
        InputError: The records cannot be read.
    """
    contents = build(read_results(folder))
    for name in ("tables", "figures"):
        (out / name).mkdir(parents=True, exist_ok=True)
    _remove_stale(out, contents.entries)
    for entry in contents.entries:
        stem = out / _folder(entry) / entry.name
        if isinstance(entry.result, Table):
            _save_table(entry.result, stem)
        else:
            entry.result.save(stem)
    write_page(out / "index.html", contents, out / "figures")
    for name, text in markdown_files(contents).items():
        write_text(out / name, text)
    return list(contents.records.notices)


def markdown_files(contents: Contents) -> dict[str, str]:
    """The Markdown files of a report: texts by name."""
    return {
        "RESULTS.md": results_markdown(contents),
        "FINDINGS.md": findings_markdown(contents.findings),
        "PASSED_OVER.md": _passed_over(contents.records),
    }


def build(records: Records) -> Contents:
    """Findings, and every table and figure of every series with measurements for it, data only.

    A table or figure without measurements in any series appears once, with the published values.
    """
    paper = read_paper()
    entries, counts = [], {}
    for name, build_one in results():
        unmeasured = build_one(Records(), paper)
        built = {series: build_one(part, paper) for series, part in records.by_series().items()}
        found = {s: result for s, result in built.items() if _data(result) != _data(unmeasured)}
        of = name.removeprefix("table")
        if isinstance(unmeasured, Table) and of.isdigit():
            counts[name] = coverage(unmeasured, found)
        for series, result in (found or {None: unmeasured}).items():
            slug = f"{name}-{series_slug(series)}" if series else name
            note = _note(name, series, records, counts.get(name))
            entries.append(Entry(slug, series, result, name, note))
    return Contents(records, find(records), counts, entries)


def _note(name: str, series: Series | None, records: Records, counts: Coverage | None) -> str:
    """How many cells of a table or figure a series has, and the command that measures the rest."""
    if series and series.limit is not None:
        return ""
    mine = records.by_series().get(series, Records()) if series else Records()
    model = next((record["base"] for record in mine), PROFILE)
    module = plugin_module("analysis", name, "table or figure")
    profile = getattr(module, "PROFILE", PROFILE)
    command = measuring(name, series or Series(profile, "authors"), model)
    text = ""
    if counts:
        cells = "published cells" if counts.published else "cells"
        has = counts.measured.get(series, 0) if series else 0
        text = f"{has} of {counts.cells} {cells} measured. "
        if has == counts.cells:
            return text.strip()
    return text + (f"What is missing, three seeds: `{command}`" if command else "")


def _save_table(table: Table, stem: Path) -> None:
    """Writes `stem`.md, .tex and .json."""
    stem.with_suffix(".md").write_text(f"# {table.title}\n\n{markdown(table)}")
    stem.with_suffix(".tex").write_text(latex(table))
    text = json.dumps(table.as_json(), indent=1, ensure_ascii=False)
    stem.with_suffix(".json").write_text(text + "\n")


def _data(result: Table | Figure) -> object:
    return result.as_json() if isinstance(result, Table) else result.data


def _folder(entry: Entry) -> str:
    return "tables" if isinstance(entry.result, Table) else "figures"


def _remove_stale(out: Path, entries: list[Entry]) -> None:
    """Removes the files of an earlier report that this one does not write."""
    written = {(_folder(entry), entry.name) for entry in entries}
    for name, _ in results():
        for folder in ("tables", "figures"):
            for path in (out / folder).glob(f"{name}*"):
                its_own = path.stem == name or path.stem.startswith(f"{name}-")
                its_own = its_own and path.suffix in (".md", ".tex", ".json", ".png", ".pdf")
                if its_own and (folder, path.stem) not in written:
                    path.unlink()


def results_markdown(contents: Contents) -> str:
    """The text of RESULTS.md."""
    records = contents.records
    links = (
        "[All comparisons, with n, seeds and tests](FINDINGS.md). `index.html`, which the command "
        "writes, too, links every number to its record."
    )
    parts = [
        "# Results",
        f"Generated by `trimlab report` from {len(records)} records; do not edit. {LEGEND}",
        coverage_line(list(contents.coverage.values())),
        summary_markdown(contents.findings),
        links,
    ]
    if records.notices:
        parts.append(f"[{len(records.notices)} notices](PASSED_OVER.md) while reading the records.")
    for entry in contents.entries:
        result = entry.result
        measured = shown(series_title(entry.series)) if entry.series else "not measured yet"
        parts.append(f"## {result.title} ({measured})")
        parts += [shown(entry.note)] if entry.note else []
        if isinstance(result, Table):
            parts.append(markdown(result).rstrip())
        else:
            stem = f"figures/{entry.name}"
            parts.append(f"![{result.title}]({stem}.png)")
            parts.append(f"{result.caption} ([PDF]({stem}.pdf), [data]({stem}.json))")
    return "\n\n".join(parts) + "\n"


def _passed_over(records: Records) -> str:
    """The text of PASSED_OVER.md."""
    notices = "\n".join(f"- {shown(notice)}" for notice in records.notices) or "Nothing."
    return f"# Passed over while reading the records\n\n{notices}\n"

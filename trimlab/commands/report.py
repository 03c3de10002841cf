"""Tables, figures and a page from the records of experiments (from a clone)."""

import sys

from trimlab.plugins import from_a_clone


def run(arguments: list[str]) -> None:
    """`trimlab report`: tables, figures and the page from the records."""
    from pathlib import Path

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab report",
        exit_on_error=False,
        description="Builds index.html, RESULTS.md, FINDINGS.md, tables/ and figures/ from "
        "results/*.jsonl.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records")
    options = parser.parse_args(arguments)
    report = from_a_clone("analysis.report")
    if notices := report.write_report(options.out, options.results):
        notes = options.out / "PASSED_OVER.md"
        print(
            f"trimlab: {len(notices)} notices while reading the records: {notes}", file=sys.stderr
        )
    print(options.out / "index.html")

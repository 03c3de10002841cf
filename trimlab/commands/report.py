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
        description="Builds index.html, RESULTS.md, tables/ and figures/ from results/*.jsonl.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records")
    options = parser.parse_args(arguments)
    report = from_a_clone("analysis.report")
    for notice in report.write_report(options.out, options.results):
        print(f"trimlab: {notice}", file=sys.stderr)
    print(options.out / "index.html")

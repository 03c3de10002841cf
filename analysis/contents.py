"""What a report shows, before it is written as a page or as Markdown."""

from dataclasses import dataclass

from analysis.coverage import Coverage
from analysis.figures import Figure
from analysis.findings._finding import Finding
from analysis.tables import Table
from trimlab.records.results import Records, Series


@dataclass(frozen=True)
class Entry:
    """A table or figure of one series, and the name of its files.

    Attributes:
        name: File name without its ending; also its anchor.
        series: The series of its records; None without records.
        result: The table or figure.
        of: Name of the table or figure, the same for every series.
        note: How many of its cells are measured, and the command that measures the rest.
    """

    name: str
    series: Series | None
    result: Table | Figure
    of: str
    note: str = ""


@dataclass(frozen=True)
class Contents:
    """The contents of a report.

    Attributes:
        records: The records.
        findings: The answers to the questions.
        coverage: The measured cells of every table of the paper, by its name.
        entries: Tables and figures, in order.
    """

    records: Records
    findings: list[Finding]
    coverage: dict[str, Coverage]
    entries: list[Entry]

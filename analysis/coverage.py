"""How many of the paper's cells are measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from analysis.tables import Table
from trimlab.records.results import Series

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Coverage:
    """The cells of a table of the paper.

    Attributes:
        title: Its title.
        cells: Number of its published cells or, where no value is known to us, of all its cells.
        published: Whether its values are known to us.
        measured: Number of these cells that are measured, by series of full runs.
        anywhere: Number of those measured in any series.
    """

    title: str
    cells: int
    published: bool
    measured: dict[Series, int] = field(default_factory=dict)
    anywhere: int = 0


def coverage(unmeasured: Table, measured: dict[Series, Table]) -> Coverage:
    """Counts the cells of a table that have a measured value.

    Cells that are ours alone (another benchmark, another ratio) do not count, nor do rehearsals.

    Args:
        unmeasured: The table without records.
        measured: The table of every series.
    """
    groups = {group.title for group in unmeasured.groups}
    every = dict(_cells(unmeasured, groups))
    published = {key for key, (paper, _) in every.items() if paper}
    wanted = published or set(every)
    found = {
        series: wanted & {key for key, (_, has) in _cells(table, groups) if has}
        for series, table in measured.items()
        if series.limit is None
    }
    return Coverage(
        title=unmeasured.title.partition(":")[0],
        cells=len(wanted),
        published=bool(published),
        measured={series: len(keys) for series, keys in found.items() if keys},
        anywhere=len(set().union(*found.values())),
    )


def _cells(table: Table, groups: set[str]) -> Iterator[tuple[Key, tuple[str | None, bool]]]:
    """The published value and whether there is a measured one, for each cell of the paper's.

    A group of measured rows has the title of its model or machine; it stands for the paper's
    group without a title.
    """
    for group, row, key, cell in table.cells():
        if "paper" in table.columns[key].parts:
            place = (group.title if group.title in groups else "", row.title, key)
            yield place, (cell.paper or None, cell.measured is not None)


def coverage_line(found: Sequence[Coverage]) -> str:
    """The counts of all tables as a sentence."""

    def counts(of: list[Coverage]) -> str:
        return f"{sum(c.anywhere for c in of)} of {sum(c.cells for c in of)}"

    published = [c for c in found if c.published]
    unknown = [c for c in found if not c.published]
    said = f"{counts(published)} of the paper's published cells are measured"
    if unknown:
        names = ", ".join(c.title.removeprefix("Table ") for c in unknown)
        said += f", and {counts(unknown)} cells of Tables {names}, whose values are not known to us"
    return said + "."

"""The published numbers of `paper_values/*.csv`."""

import csv
from dataclasses import dataclass
from pathlib import Path

PAPER_VALUES = Path(__file__).parent / "paper_values"


@dataclass(frozen=True)
class Paper:
    """The published tables.

    Attributes:
        tables: Rows by name of the table (`table3`).
    """

    tables: dict[str, list[dict[str, str]]]

    def rows(self, table: str, **fields: str) -> list[dict[str, str]]:
        """The rows of a table with all of these values; none for an unknown table."""
        rows = self.tables.get(table, [])
        return [row for row in rows if all(row[k] == v for k, v in fields.items())]

    def row(self, table: str, **fields: str) -> dict[str, str]:
        """The first row with all of these values, or an empty one."""
        return next(iter(self.rows(table, **fields)), {})


def read_paper(folder: Path = PAPER_VALUES) -> Paper:
    """Reads the published tables."""
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            tables[path.stem.partition("_")[0]] = list(csv.DictReader(file))
    return Paper(tables)


def number(text: str | None) -> float | None:
    """A published number; None for an empty cell or a bound (`>50%`)."""
    try:
        return float(text or "")
    except ValueError:
        return None

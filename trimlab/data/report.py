"""What reading the data of a domain has found, for people: counts, cuts, rows left out."""

from dataclasses import dataclass, field

from trimlab.records.rows import JsonObject


@dataclass(frozen=True)
class SetReport:
    """One row set as the model reads it.

    Attributes:
        items: Number of items.
        cut: Number of items that lost tokens, because they were longer than `max_length`.
        longest: Tokens of the longest item before it was cut.
    """

    items: int
    cut: int = 0
    longest: int = 0


@dataclass(frozen=True)
class DataReport:
    """The row sets of a task, and everything that was not used of them.

    Attributes:
        sets: Train, calibration, dev and test, by name.
        skipped: Faulty rows that were skipped, by split.
        unread_columns: Columns that the task does not read.
        notes: One sentence for everything that a person should know, in plain words.
    """

    sets: dict[str, SetReport]
    skipped: dict[str, int] = field(default_factory=dict)
    unread_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_row(self) -> JsonObject:
        """The report as a JSON object."""
        return {
            "sets": {name: vars(found) for name, found in self.sets.items()},
            "skipped": dict(self.skipped),
            "unread_columns": list(self.unread_columns),
            "notes": list(self.notes),
        }

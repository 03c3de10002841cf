"""A row as read, access to its columns, and the rows of a source."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimlab.errors import InputError


class Columns(dict[str, Any]):
    """Values by column. Names that are looked up are recorded, whether they exist or not.

    Args:
        values: Values by column.
        asked: The record, usually one for all rows of a source.
        replaced: Columns of the source that others, under their names, take the place of.
    """

    def __init__(self, values: Mapping[str, Any], asked: set[str], replaced: Collection[str] = ()):
        super().__init__(values)
        self.asked, self.replaced = asked, replaced

    def __getitem__(self, column: str) -> Any:
        self.asked.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        """The value of a column, or a default."""
        self.asked.add(column)
        return super().get(column, default)


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read.

    The methods return the value of a column. They raise an `InputError` with the row's place and
    the column if it is missing or has another type.

    Attributes:
        columns: Values by column.
        where: File and line, or data set and number, of the row.
        fault: Reason why the row could not be read; it then has no columns.
        class_names: Names of the classes, by column, where the source has them.
        source_names: Names in the source, of the columns that `data.columns` renames.
    """

    columns: Mapping[str, Any]
    where: str
    fault: str | None = None
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source_names: Mapping[str, str] = field(default_factory=dict)

    def text(self, column: str) -> str:
        """The text in a column."""
        return self._checked(column, lambda value: isinstance(value, str), "text")

    def texts(self, column: str) -> list[str]:
        """The list of texts in a column. A text may hold it as JSON, as in a `.csv` file."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(text, str) for text in value)

        value = self.columns.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            with suppress(ValueError, RecursionError):
                if fits(parsed := json.loads(value)):
                    return parsed
        return self._checked(column, fits, "a list of texts")

    def index(self, column: str) -> int:
        """The whole number in a column."""
        # JSON's true is 1 in Python: an answer of `true` is a mistake, not choice 1
        return self._checked(column, lambda value: type(value) is int, "a whole number")

    def label(self, column: str, labels: Sequence[str]) -> int:
        """The index in `labels` of the text in a column."""
        kind = f"one of {', '.join(labels)}"
        labels = list(labels)  # `labels` may be a string, and "" and "AB" are in "ABCD"
        return labels.index(self._checked(column, lambda value: value in labels, kind))

    def value(self, column: str) -> Any:
        """The value in a column, of any type."""
        return self._checked(column, lambda _: True, "")

    def names(self) -> str:
        """The names of the row's columns in its source, for a message."""
        return ", ".join(self._source_name(column) for column in self.columns) or "none"

    def _checked(self, column: str, fits: Callable[[Any], bool], kind: str) -> Any:
        if self.fault is not None:
            raise InputError(f"{self.where}: {self.fault}")
        value = self.columns.get(column)
        name = self._source_name(column)
        if column not in self.columns:
            raise InputError(f"{self.where}: no column {name!r}; its columns are: {self.names()}")
        if not fits(value):
            raise InputError(f"{self.where}: {name!r} must be {kind}, not {short(value)}")
        return value

    def _source_name(self, column: str) -> str:
        return self.source_names.get(column, column)


class Rows(Protocol):
    """The rows of a source, in its order. They need not be in memory: a row may be read again."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Row:
        """The row with an index."""
        ...

    def __iter__(self) -> Iterator[Row]:
        """All rows; faster than one index after another."""
        ...


def short(value: object) -> str:
    """A value as JSON, cut for an error message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."

"""Typed rows: dataclasses that are written as JSON objects and read back without loss.

A field without a default is in every row. A field with the default None is written only where it
has a value. A `nullable` field is always written, as null where it has no value, and may be missing
in rows of earlier versions. A `renamed` field is read in its old spelling, too.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Self

from trimlab.errors import InputError
from trimlab.records.rows import Row

WAS, ALWAYS_WRITTEN = "was", "always_written"


def nullable() -> Any:
    """A dataclass field that is written as null where it has no value."""
    return field(default=None, metadata={ALWAYS_WRITTEN: True})


def renamed(old: str) -> dict[str, str]:
    """Metadata of a dataclass field that earlier versions wrote under another name."""
    return {WAS: old}


@dataclass(frozen=True, kw_only=True)
class TypedRow:
    """A row of a record, or the part of one that a subclass declares."""

    def to_row(self) -> Row:
        """The row as it is written."""
        row = {}
        for declared in fields(self):
            value = getattr(self, declared.name)
            if value is not None or _always_written(declared):
                row[declared.name] = value
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads the fields of this class; other fields of the row are left to others.

        Raises:
            InputError: A field is missing.
        """
        values, missing = {}, []
        for declared in fields(cls):
            name = declared.name
            if name not in row and declared.metadata.get(WAS) in row:
                name = declared.metadata[WAS]
            if name in row:
                values[declared.name] = row[name]
            elif declared.default is MISSING and declared.default_factory is MISSING:
                missing.append(declared.name)
        if missing:
            raise InputError(f"without {', '.join(missing)}")
        return cls(**values)

    def check(self) -> None:
        """Refuses values that contradict each other; most kinds of row have none."""


def _always_written(declared: Field[Any]) -> bool:
    return declared.default is MISSING or ALWAYS_WRITTEN in declared.metadata

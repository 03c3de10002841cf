"""Typed rows: dataclasses, written as JSON objects and read back without loss.

- A field without a default is required, in rows of every version.
- A field with the default None is written only if it has a value.
- A `nullable` field is always written, as null without a value; earlier rows may lack it.
- A `renamed` field is also read under its old name.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Self

from trimlab.errors import InputError
from trimlab.records.rows import JsonObject

WAS, ALWAYS_WRITTEN = "was", "always_written"


def nullable() -> Any:
    """A dataclass field that is written as null if it has no value."""
    return field(default=None, metadata={ALWAYS_WRITTEN: True})


def renamed(old: str) -> dict[str, str]:
    """Metadata of a dataclass field with another name in earlier versions.

    Args:
        old: The name in earlier versions.
    """
    return {WAS: old}


@dataclass(frozen=True, kw_only=True)
class TypedRow:
    """A row of a record, or a part of one: the fields of a subclass."""

    def to_row(self) -> JsonObject:
        """The fields as a JSON object."""
        row = {}
        for declared in fields(self):
            value = getattr(self, declared.name)
            if value is not None or _always_written(declared):
                row[declared.name] = value
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads the fields of this class and ignores the others.

        Args:
            row: A JSON object.

        Raises:
            InputError: A required field is missing.
        """
        if missing := cls.missing(row):
            raise InputError(f"without {', '.join(missing)}")
        names = {declared.name: _name_in(row, declared) for declared in fields(cls)}
        return cls(**{name: row[found] for name, found in names.items() if found is not None})

    @classmethod
    def missing(cls, row: Mapping[str, Any]) -> list[str]:
        """Names of the required fields that a JSON object lacks."""
        return [
            declared.name
            for declared in fields(cls)
            if declared.default is MISSING
            and declared.default_factory is MISSING
            and _name_in(row, declared) is None
        ]

    def check(self) -> None:
        """Refuses contradictory values; the default accepts everything.

        Raises:
            InputError: The values contradict each other.
        """


def _name_in(row: Mapping[str, Any], declared: Field[Any]) -> str | None:
    """The name of a field in a JSON object, new or old; None if the object lacks the field."""
    names = (declared.name, declared.metadata.get(WAS))
    return next((name for name in names if name in row), None)


def _always_written(declared: Field[Any]) -> bool:
    return declared.default is MISSING or ALWAYS_WRITTEN in declared.metadata

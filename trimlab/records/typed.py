"""Typed rows: dataclasses, written as JSON objects and read back without loss.

- A field without a default is required, in rows of every version.
- A field with the default None is written only if it has a value.
- A `nullable` field is always written, as null without a value; earlier rows may lack it.
- A `renamed` field is also read under its old name.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

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
            InputError: A required field is missing, or a value is of another type.
        """
        if not isinstance(row, Mapping):
            raise InputError(f"{cls.__name__} must be a JSON object, not {row!r:.40}")
        if missing := cls.missing(row):
            raise InputError(f"without {', '.join(missing)}")
        names = {declared.name: _name_in(row, declared) for declared in fields(cls)}
        values = {name: row[found] for name, found in names.items() if found is not None}
        types = _types(cls)
        for name, value in values.items():
            if not fits(value, types[name]):
                raise InputError(f"{name} cannot be {value!r:.40}")
        return cls(**values)

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


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type.

    Args:
        value: The value. A typed row in a row is a JSON object here, too.
        kind: The type: of JSON, an alternative, a list, a mapping, a literal or a dataclass.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or is_dataclass(kind):
        return kind is Any or isinstance(value, Mapping)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:  # `check` names the known ones
        return isinstance(value, type(parts[0]))
    if origin is list:
        return isinstance(value, list) and all(fits(entry, parts[0]) for entry in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(v, parts[1]) for v in value.values())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


@cache
def _types(row: type) -> dict[str, Any]:
    return get_type_hints(row)


def _name_in(row: Mapping[str, Any], declared: Field[Any]) -> str | None:
    """The name of a field in a JSON object, new or old; None if the object lacks the field."""
    names = (declared.name, declared.metadata.get(WAS))
    return next((name for name in names if name in row), None)


def _always_written(declared: Field[Any]) -> bool:
    return declared.default is MISSING or ALWAYS_WRITTEN in declared.metadata

"""The id of a run: a hash of its resolved config."""

import hashlib
import json
from typing import Any

from trimlab.records.rows import Row


def config_hash(config: Row) -> str:
    """Short sha256 of a resolved config.

    The order of its keys does not matter; nor does `data.root`: where the rows lie is not which
    rows they are, and that is in their fingerprints; nor whether a whole number is a float: a type
    such as `int | float` may make it one or the other, as other libraries were imported.
    """
    text = json.dumps(_plain(without_root(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_root(config: Row) -> Row:
    """A config without the folder of its rows."""
    if isinstance(data := config.get("data"), dict):
        config = config | {"data": {key: value for key, value in data.items() if key != "root"}}
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

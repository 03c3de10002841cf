"""Hashes of configs."""

import hashlib
import json
from typing import Any

from trimlab.records.rows import JsonObject


def config_hash(config: JsonObject) -> str:
    """Short sha256 of a config or another nested mapping.

    It does not depend on the order of the keys; on `data.root`, since the rows' fingerprints are
    recorded and not their place; or on the type of a whole number: jsonargparse reads 1 for a
    `int | float` as either of the two.
    """
    text = json.dumps(_plain(without_root(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_root(config: JsonObject) -> JsonObject:
    """A config without `data.root`, the folder of its rows."""
    if isinstance(data := config.get("data"), dict):
        config = config | {"data": {key: value for key, value in data.items() if key != "root"}}
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

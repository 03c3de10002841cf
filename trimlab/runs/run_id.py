"""The id of a run: a hash of its resolved config, independent of options added later.

`defaults_v1.json` holds the resolved defaults of the first recorded runs and is never edited. Its
options always count. A later option counts only where it differs from its default: a new option
leaves the ids of the runs without it as they are, and needs no entry anywhere.
"""

import json
from functools import cache
from pathlib import Path

from trimlab.records.identity import config_hash
from trimlab.records.rows import JsonObject
from trimlab.runs.options import earlier_names, present_names


def run_id(config: JsonObject) -> str:
    """The id of a run.

    Args:
        config: Its config as `distinctive` leaves it, options under present or earlier names.
    """
    return config_hash(earlier_names(config))


def distinctive(config: JsonObject, defaults: JsonObject) -> JsonObject:
    """The options that identify a run: those of version 1, and later ones in use.

    Args:
        config: A resolved config under present names, in sections.
        defaults: The present defaults, resolved in the same way.

    Returns:
        The config without unused later options. An option of version 1 that no longer exists
        has the value that it had.
    """
    first = present_names(defaults_v1())
    kept: JsonObject = {}
    for section, value in config.items():
        known, default = first.get(section), defaults.get(section)
        if isinstance(value, dict):
            used = _used(value, known or {}, default or {})
            if used or section in first:
                kept[section] = used
        elif section in first or value != default:
            kept[section] = value
    for section, value in first.items():
        if isinstance(value, dict):
            there = kept.setdefault(section, {})
            there |= {option: v for option, v in value.items() if option not in there}
        else:
            kept.setdefault(section, value)
    return kept


def _used(options: JsonObject, known: JsonObject, defaults: JsonObject) -> JsonObject:
    """The options of a section that version 1 knew or that differ from their default."""
    return {
        option: value
        for option, value in options.items()
        if option in known or option not in defaults or value != defaults[option]
    }


@cache
def defaults_v1() -> JsonObject:
    """The resolved defaults of the first recorded runs, under the names of that time."""
    return json.loads(Path(__file__).with_name("defaults_v1.json").read_text())

"""The id of a run: a hash of its resolved config that does not change when options are added.

`defaults_v1.json` holds the resolved defaults of the first recorded runs and is never edited. Its
options always count. An option that came later counts only where it differs from its default. So
a new option leaves the ids of the runs that do not use it as they are, without an entry anywhere.
"""

import json
from functools import cache
from pathlib import Path

from trimlab.records.identity import config_hash
from trimlab.records.rows import Row
from trimlab.runs.options import earlier_names, present_names


def run_id(config: Row) -> str:
    """The id of a run.

    Args:
        config: Its config as `distinctive` leaves it, options under present or earlier names.
    """
    return config_hash(earlier_names(config))


def distinctive(config: Row, defaults: Row) -> Row:
    """The options of a config that make a run: those of version 1, and later ones that are used.

    Args:
        config: A resolved config under present names, in sections.
        defaults: The present defaults, resolved in the same way.

    Returns:
        The config without unused later options. An option of version 1 that no longer exists
        has the value that it had.
    """
    first = present_names(defaults_v1())
    kept: Row = {}
    for section, value in config.items():
        known, default = first.get(section), defaults.get(section)
        if isinstance(value, dict):
            known, default = known or {}, default or {}
            kept[section] = {
                option: entry
                for option, entry in value.items()
                if option in known or option not in default or entry != default[option]
            }
        elif section in first or value != default:
            kept[section] = value
    for section, value in first.items():
        if isinstance(value, dict):
            kept[section] = {**value, **kept.get(section, {})}
        else:
            kept.setdefault(section, value)
    return kept


@cache
def defaults_v1() -> Row:
    """The resolved defaults of the first recorded runs, under the names of that time."""
    return json.loads(Path(__file__).with_name("defaults_v1.json").read_text())

"""Tables and figures of the paper, and a few of our own, built from the records of experiments.

A table or figure of the paper is one file, `table<N>.py` or `figure<N>.py`; one of our own is
`table_<name>.py` or `figure_<name>.py`. The name of the file is its registration. The file defines

    def build(records: Records, paper: Paper) -> Table        # or Figure

`records` are the comparable records of one series. `build` returns data only and draws nothing, so
that tests compare data and not pixels.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from trimlab.plugins import plugin_module, plugin_names

_NAME = re.compile(r"(table|figure)(?:(\d+)|_(\w+))")


def results() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and `build` of every table and figure: the paper's by number, then ours."""
    names = [name for name in plugin_names(__name__) if _NAME.fullmatch(name)]

    def place(name: str) -> tuple[bool, bool, int, str]:
        kind, number, own = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        return own is not None, kind == "figure", int(number or 0), own or ""

    for name in sorted(names, key=place):
        yield name, plugin_module(__name__, name, "table or figure").build

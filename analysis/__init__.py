"""Tables and figures of the paper, built from the records of experiments.

Every table and figure is one file, `table<N>.py` or `figure<N>.py`, found by its name, with

    def build(records: Records, paper: Paper) -> Table        # or Figure

`records` are those of one series: what may be compared. `build` returns data only; drawing comes
after it, so that tests compare data and not pixels.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

_NAME = re.compile(r"(table|figure)(\d+)")


def results() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and `build` of every table, then of every figure, by number."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if _NAME.fullmatch(m.name)]

    def place(name: str) -> tuple[bool, int]:
        kind, number = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        return kind == "figure", int(number)

    for name in sorted(names, key=place):
        yield name, importlib.import_module(f"analysis.{name}").build

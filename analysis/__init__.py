"""Tables and figures of the paper, and a few of our own, built from the records of experiments.

Every table and figure of the paper is one file, `table<N>.py` or `figure<N>.py`, and every one of
our own `table_<name>.py` or `figure_<name>.py`. It is found by its name, and has

    def build(records: Records, paper: Paper) -> Table        # or Figure

`records` are those of one series: what may be compared. `build` returns data only; drawing comes
after it, so that tests compare data and not pixels.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

_NAME = re.compile(r"(table|figure)(?:(\d+)|_(\w+))")


def results() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and `build` of every table and then figure of the paper, by number; then of ours."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if _NAME.fullmatch(m.name)]

    def place(name: str) -> tuple[bool, bool, int, str]:
        kind, number, own = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
        return own is not None, kind == "figure", int(number or 0), own or ""

    for name in sorted(names, key=place):
        yield name, importlib.import_module(f"analysis.{name}").build

"""Printing what a person should know of the data."""

import sys
from collections.abc import Iterable

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def print_notes(notes: Iterable[str]) -> None:
    """Prints notes on standard error, a line each and once for all processes of a run."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)

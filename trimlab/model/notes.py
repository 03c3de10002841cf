"""Notes on a model for people, on standard error."""

import sys
from functools import cache


@cache
def note_once(text: str) -> None:
    """Prints a note, once in a process: a run loads its base model several times."""
    print(f"note: {text}", file=sys.stderr)

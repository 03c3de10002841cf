"""What the longest text that a model reads does to the items of a set, for people."""

from collections.abc import Sequence

from trimlab.data.encoding import EncodedItem
from trimlab.data.report import SetReport


def set_report(items: Sequence[Sequence[EncodedItem]]) -> SetReport:
    """Counts of a row set.

    Args:
        items: The items as encoded: one each, or the windows of a plain text.
    """
    every = [part for parts in items for part in parts]
    return SetReport(
        items=len(every),
        cut=sum(part.cut > 0 for part in every),
        longest=max((part.length for part in every), default=0),
    )


def length_notes(name: str, items: Sequence[Sequence[EncodedItem]], max_length: int) -> list[str]:
    """A sentence on what was cut, on windows, and on texts that are too short to be read.

    Args:
        name: Name of the set.
        items: The items as encoded: one each, none, or the windows of a plain text.
        max_length: Longest text in tokens.
    """
    found, notes = set_report(items), []
    if found.cut:
        notes.append(
            f"{found.cut} of {len(items)} {name} items were longer than {max_length} tokens "
            "(data.max_length) and lost their beginning"
        )
    windows = [parts for parts in items if len(parts) > 1]
    if windows:
        notes.append(
            f"{len(windows)} of {len(items)} {name} texts are longer than {max_length} tokens "
            f"(data.max_length) and are read in {sum(map(len, windows))} windows; a window counts "
            "as an item"
        )
    if short := sum(not parts for parts in items):
        notes.append(
            f"{short} of {len(items)} {name} texts have one token, which nothing predicts: skipped"
        )
    return notes

"""What the longest text that a model reads does to the items of a set, for people."""

from collections.abc import Iterable, Sequence

from trimlab.data.encoding import EncodedItem
from trimlab.data.report import SetReport


def set_report(items: Iterable[EncodedItem]) -> SetReport:
    """Counts of a row set.

    Args:
        items: The items as encoded; the windows of a plain text are items of their own.
    """
    count = cut = longest = 0
    for item in items:
        count, cut, longest = count + 1, cut + (item.cut > 0), max(longest, item.length)
    return SetReport(items=count, cut=cut, longest=longest)


def length_notes(name: str, found: SetReport, parts: Sequence[int], max_length: int) -> list[str]:
    """A sentence on what was cut, on windows, and on texts that are too short to be read.

    Args:
        name: Name of the set.
        found: Its counts.
        parts: For each item of the set, number of encoded ones: one, none, or the windows of a
            plain text.
        max_length: Longest text in tokens.
    """
    notes = []
    if found.cut:
        notes.append(
            f"{found.cut} of {len(parts)} {name} items were longer than {max_length} tokens "
            "(data.max_length) and lost their beginning"
        )
    windows = [count for count in parts if count > 1]
    if windows:
        notes.append(
            f"{len(windows)} of {len(parts)} {name} texts are longer than {max_length} tokens "
            f"(data.max_length) and are read in {sum(windows)} windows; a window counts as an item"
        )
    if short := sum(not count for count in parts):
        notes.append(
            f"{short} of {len(parts)} {name} texts have one token, which nothing predicts: skipped"
        )
    return notes

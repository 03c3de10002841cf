"""Many encoded items in little memory."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, overload

from trimlab.data.encoding import EncodedItem

OF_TOKENS = ("tokens", "positions", "continuations")
OF_SCORED = ("logit_index", "targets", "choice_index")
OF_ITEMS = ("gold", "length", "cut")


class PackedItems(Sequence[EncodedItem]):
    """Encoded items as arrays of 32-bit integers: a tenth of the memory of Python's tuples.

    An item is made again each time that it is asked for.
    """

    def __init__(self):
        self._values = {name: array("i") for name in (*OF_TOKENS, *OF_SCORED, *OF_ITEMS)}
        self._ends = array("Q", [0]), array("Q", [0])  # of tokens and of scored tokens, by item

    def extend(self, items: Iterable[EncodedItem]) -> None:
        """Adds items."""
        for item in items:
            for name in (*OF_TOKENS, *OF_SCORED):
                self._values[name].extend(getattr(item, name))
            for name in OF_ITEMS:
                self._values[name].append(getattr(item, name))
            for ends, name in zip(self._ends, ("tokens", "targets"), strict=True):
                ends.append(len(self._values[name]))

    def lengths(self) -> list[int]:
        """Number of tokens of every item."""
        ends = self._ends[0]
        return [stop - start for start, stop in pairwise(ends)]

    def __len__(self) -> int:
        return len(self._values["gold"])

    @overload
    def __getitem__(self, index: int) -> EncodedItem: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedItem]: ...
    def __getitem__(self, index: int | slice) -> EncodedItem | list[EncodedItem]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        found: dict[str, Any] = {name: self._values[name][index] for name in OF_ITEMS}
        for names, ends in zip((OF_TOKENS, OF_SCORED), self._ends, strict=True):
            for name in names:
                found[name] = tuple(self._values[name][ends[index] : ends[index + 1]])
        return EncodedItem(**found)

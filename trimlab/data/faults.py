"""Why rows or items cannot be used."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

NAMED = 5  # faults that a message names


@dataclass
class Faults:
    """Faults of rows, which are counted, and the first of which are named.

    Attributes:
        count: Number of faults.
        first: The first of them, each with its place and reason.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, texts: Iterable[str], count: int = 1) -> None:
        """Adds faults. Their texts are made as far as they are to be named."""
        self.first += islice(texts, NAMED - len(self.first))
        self.count += count

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return "; ".join(self.first) + (f"; and {more} more" if more > 0 else "")

"""Items: what a row becomes, whatever benchmark it is from."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One question, or one plain text.

    Attributes:
        context: The whole prompt, without trailing space.
        choices: Its continuations; each begins with the space that sets it off the context.
        gold: Index of the right choice.
    """

    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def hash(self) -> str:
        """Identifies the item in a record; runs of white space count as one space."""
        texts = [" ".join(text.split()) for text in (self.context, *self.choices)]
        return digest(json.dumps([texts, self.gold]))


def fingerprint(items: Iterable[Item]) -> str:
    """One hash of a row set, whatever the order of its items."""
    return digest("\n".join(sorted(item.hash for item in items)))


def digest(text: str) -> str:
    """A short hash of a text, the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fold(text: str) -> str:
    """A text without what makes no difference between two rows: case, and runs of white space."""
    return " ".join(text.split()).casefold()

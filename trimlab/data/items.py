"""Items: the common form of the rows of all tasks."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Item:
    """A multiple-choice question, or one plain text (no context, one choice).

    Attributes:
        context: The whole prompt, without trailing space.
        choices: Continuations of the prompt; each begins with the space that separates the two.
        gold: Index of the right choice.
        scored: Spans of the only choice, in characters, that are trained on and scored: the
            assistant's turns of a chat. Empty: the whole of every choice.
        ends_with_turn: The last span ends as the template of a chat ends a turn, maybe with the
            EOS, which is scored then. It follows from the task.
        where: File and line of its row, for messages. It is no part of what the item is.
    """

    context: str
    choices: tuple[str, ...]
    gold: int
    scored: tuple[tuple[int, int], ...] = ()
    ends_with_turn: bool = field(default=False, compare=False)
    where: str = field(default="", compare=False)

    @property
    def hash(self) -> str:
        """Identifies the item in a record; runs of white space count as one space."""
        texts = [plain(text) for text in (self.context, *self.choices)]
        return digest(json.dumps([texts, self.gold]))


def fingerprint(items: Iterable[Item]) -> str:
    """One hash of a set of items, whatever their order."""
    return digest("\n".join(sorted(item.hash for item in items)))


def digest(text: str) -> str:
    """A hash of a text in 16 hexadecimal digits, the same on every machine."""
    return f"{digest_number(text):016x}"


def digest_number(text: str) -> int:
    """The `digest` of a text as a number below 2**64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def plain(text: str) -> str:
    """A text with every run of white space as one space."""
    return " ".join(text.split())


def fold(text: str) -> str:
    """A text in lower case, with every run of white space as one space."""
    return plain(text).casefold()


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: JSON may hold halves of characters, tokenizers refuse them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

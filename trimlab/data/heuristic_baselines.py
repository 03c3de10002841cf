"""Baselines that use no model: how much of a test set is given away by its form.

An accuracy means little before it is compared with these. They take any objects with a
`context`, `choices` and `gold`, and return percent, as every accuracy here.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))


# words that say nothing of what a question is about
STOP_WORDS = _words(
    "a an and any are as at be but by for from has in into is it its no nor not of on or other "
    "that the their this to unspecified was were what when which who with without"
)


class MultipleChoice(Protocol):
    """What a baseline needs to know of an item."""

    @property
    def context(self) -> str:
        """The prompt."""
        ...

    @property
    def choices(self) -> tuple[str, ...]:
        """Its continuations."""
        ...

    @property
    def gold(self) -> int:
        """Index of the right one."""
        ...


def stems(text: str) -> set[str]:
    """The words of a text without stop words, each cut to its first four letters.

    A crude stem, but "fracture" and "fractures", "gastric" and "gastritis" have the same one.
    """
    return {word[:4] for word in _words(text) - STOP_WORDS}


def word_overlap(context: str, choices: Sequence[str]) -> int:
    """The choice that shares most words with the prompt; among equals, the first."""
    prompt = stems(context)
    shared = [len(prompt & stems(choice)) for choice in choices]
    return shared.index(max(shared))


def word_overlap_accuracy(items: Sequence[MultipleChoice]) -> float:
    """Percent of items that `word_overlap` answers."""
    right = sum(word_overlap(item.context, item.choices) == item.gold for item in items)
    return 100 * right / len(items)


def majority_accuracy(train: Sequence[MultipleChoice], test: Sequence[MultipleChoice]) -> float:
    """Percent of test items that the most frequent gold position of the train items answers.

    Where the position never varies (SciQ always puts the right answer last) it is a convention
    of the file that no model gets to see, and chance is returned instead. Train items with a
    single choice, answers to learn, say nothing about positions.
    """
    positions = Counter(item.gold for item in train if len(item.choices) > 1)
    if len(positions) <= 1:
        return 100 * sum(1 / len(item.choices) for item in test) / len(test)
    majority = min(positions, key=lambda position: (-positions[position], position))
    return 100 * sum(item.gold == majority for item in test) / len(test)

"""Baselines without a model: how far word overlap or answer positions solve a test set.

They stand beside every accuracy of a model. They accept any objects with `context`, `choices` and
`gold`, and return percent.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Protocol


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))


# words that are no evidence for a choice
STOP_WORDS = _words(
    "a an and any are as at be but by for from has in into is it its no nor not of on or other "
    "that the their this to unspecified was were what when which who with without"
)


class MultipleChoice(Protocol):
    """The attributes of an item that the baselines read."""

    @property
    def context(self) -> str:
        """The prompt."""
        ...

    @property
    def choices(self) -> tuple[str, ...]:
        """Continuations of the prompt."""
        ...

    @property
    def gold(self) -> int:
        """Index of the right choice."""
        ...


@cache
def stems(text: str) -> frozenset[str]:
    """The words of a text without stop words, each cut to its first four letters.

    A crude stem: "fracture" and "fractures" share it, and so do "gastric" and "gastritis".
    """
    return frozenset(word[:4] for word in _words(text) - STOP_WORDS)


def word_overlap(context: str, choices: Sequence[str]) -> int:
    """Index of the choice that shares most stems with the prompt; the first of equals."""
    prompt = stems(context)
    shared = [len(prompt & stems(choice)) for choice in choices]
    return shared.index(max(shared))


def word_overlap_accuracy(items: Sequence[MultipleChoice]) -> float:
    """Accuracy of `word_overlap`, in percent."""
    right = sum(word_overlap(item.context, item.choices) == item.gold for item in items)
    return 100 * right / len(items)


def majority_accuracy(train: Sequence[MultipleChoice], test: Sequence[MultipleChoice]) -> float:
    """Accuracy of always choosing the most frequent gold position of the train items, in percent.

    Train items with a single choice are ignored. If all others have the same gold position (SciQ
    lists the right answer last), the position is a convention of the file that no model sees, and
    the result is the accuracy of guessing.
    """
    positions = Counter(item.gold for item in train if len(item.choices) > 1)
    if len(positions) <= 1:
        return 100 * sum(1 / len(item.choices) for item in test) / len(test)
    majority = min(positions, key=lambda position: (-positions[position], position))
    return 100 * sum(item.gold == majority for item in test) / len(test)


def longest_choice_accuracy(items: Sequence[MultipleChoice]) -> float:
    """Accuracy of always choosing the longest choice, in percent; equals share the credit."""
    return 100 * sum(map(_longest, items)) / len(items)


def _longest(item: MultipleChoice) -> float:
    """Chance that the longest choice, one of the longest ones at random, is right."""
    lengths = [len(choice.strip()) for choice in item.choices]
    right = lengths[item.gold] == max(lengths)
    return right / lengths.count(max(lengths))

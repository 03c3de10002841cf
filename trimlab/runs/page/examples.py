"""Test items as a model reads them, with its answers."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trimlab.data import token_view
from trimlab.data.domain import DomainData
from trimlab.data.encoding import EncodedItem, encode
from trimlab.data.items import Item
from trimlab.records.run_summary import RunSummary

KEPT = "\n"  # control characters that are shown as they are


@dataclass(frozen=True)
class Example:
    """A test item.

    Attributes:
        number: Its place among the test items, from 1.
        prompt: The prompt from its tokens, special ones included.
        choices: The choices from their tokens.
        gold: Index of the right choice.
        answers: By model, whether it answers the item right.
    """

    number: int
    prompt: str
    choices: tuple[str, ...]
    gold: int
    answers: dict[str, bool]


def examples(summary: RunSummary, data: DomainData, most: int = 5) -> dict[bool, list[Example]]:
    """Test items that the trimmed model answers right, and others that it answers wrong.

    First those that the untrimmed model answers otherwise, then others, in their order.

    Args:
        summary: The summary so far.
        data: The domain, set up.
        most: Number of items of each kind.

    Returns:
        The items by whether the answer is right; nothing without answers to count.
    """
    named = dict(summary.named_models())
    correct = {name: model.correct for name, model in named.items() if model.correct}
    if "trimmed" not in correct or data.rows is None:
        return {}
    ours, before = correct["trimmed"], correct.get("untrimmed", correct["trimmed"])
    found = {}
    for right in (True, False):
        numbers = [i for i, answer in enumerate(ours) if (answer == "1") == right]
        numbers = sorted(numbers, key=lambda i: ours[i] == before[i])[:most]
        found[right] = [
            _example(i, data.rows.test[i], data, {k: c[i] == "1" for k, c in correct.items()})
            for i in numbers
        ]
    return found


def visible(text: str) -> str:
    """A text with an escape for every character that a page would hide or act on."""
    return "".join(
        char
        if char in KEPT or unicodedata.category(char)[0] != "C"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def texts(tokenizer: PreTrainedTokenizerBase, encoded: EncodedItem) -> tuple[str, tuple[str, ...]]:
    """The prompt and the choices of an item from its tokens, special tokens included."""
    found = [(text.ids, text.scored.index(True)) for text in token_view.texts(encoded)]
    prompt = _decoded(tokenizer, found[0][0][: found[0][1]])
    return prompt, tuple(_decoded(tokenizer, ids[start:]) for ids, start in found)


def _example(number: int, item: Item, data: DomainData, answers: dict[str, bool]) -> Example:
    prompt, choices = texts(data.tokenizer, encode(data.tokenizer, item, data.max_length))
    return Example(number + 1, prompt, choices, item.gold, answers)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return visible(text if isinstance(text, str) else "".join(text))

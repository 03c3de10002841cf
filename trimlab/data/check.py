"""What is in the data of a domain, before a model is trained on it.

`check` reads and tokenises as a run does and measures; it trains nothing and prints nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from trimlab.data.domain import DomainData
from trimlab.data.duplicates import Duplicates, find_duplicates
from trimlab.data.encoding import EncodedItem
from trimlab.data.heuristic_baselines import (
    longest_choice_accuracy,
    majority_accuracy,
    word_overlap_accuracy,
)
from trimlab.data.items import Item
from trimlab.data.label_balance import right_labels, right_positions
from trimlab.data.problems import Evidence, Problem, find_problems
from trimlab.data.report import DataReport
from trimlab.data.splits import SETS
from trimlab.data.token_view import Example, example
from trimlab.records.rows import JsonObject

BINS = 12  # of a histogram of lengths


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens.

    Attributes:
        min: The shortest.
        median: Half of them are at most so long.
        p95: 95 % of them are at most so long.
        max: The longest.
        histogram: Number of lengths in each of `BINS` equal parts from `min` to `max`.
    """

    min: int
    median: int
    p95: int
    max: int
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class SetCheck:
    """One row set.

    Attributes:
        items: Number of items.
        texts: Number of encoded texts; more than `items` where long texts become several.
        cut: Items that lost tokens, because they were longer than `max_length`.
        length: Whole texts: prompt and longest choice; in train prompt and right choice.
        prompt: Tokens that are read and not scored.
        answer: Tokens of the right choice that are scored, and trained on in train.
        positions: How often each position holds the right choice; empty without choices.
        labels: How often each label is right, where most items have the same choices.
    """

    items: int
    texts: int
    cut: int
    length: Lengths
    prompt: Lengths
    answer: Lengths
    positions: dict[int, int]
    labels: dict[str, int]


@dataclass(frozen=True)
class DataCheck:
    """What is in the data of a domain.

    Attributes:
        task: Name of the task.
        metric: Its metric.
        max_length: Longest text in tokens.
        read: Rows read, by split.
        left_out: Rows left out, by split: in a set nearer to test as well, or not usable.
        sets: Measurements, by row set.
        baselines: What is reached on test without a model, in percent; empty without choices.
        unknown: Share of tokens that are the unknown token; None where the vocabulary has none.
        duplicates: Items that stand more than once.
        problems: What usually is wrong, in plain words.
        examples: The first item of every set.
        report: Cuts, skipped rows and unread columns, as in the summary of a run.
    """

    task: str
    metric: str
    max_length: int
    read: dict[str, int]
    left_out: dict[str, int]
    sets: dict[str, SetCheck]
    baselines: dict[str, float]
    unknown: float | None
    duplicates: list[Duplicates]
    problems: list[Problem]
    examples: list[Example]
    report: DataReport

    def to_row(self) -> JsonObject:
        """The check as a JSON object."""
        row: dict[str, Any] = {**vars(self)}
        for name in ("duplicates", "problems"):
            row[name] = [asdict(entry) for entry in row[name]]
        row["sets"] = {name: asdict(found) for name, found in self.sets.items()}
        row["examples"] = [found.to_row() for found in self.examples]
        row["report"] = self.report.to_row()
        return row


def check(data: DomainData) -> DataCheck:
    """Reads, tokenises and measures the data of a domain.

    Raises:
        InputError: The rows cannot be read or used, or a choice cannot be scored.
    """
    report = data.report()
    rows = data.rows
    assert rows is not None
    items: dict[str, list[Item]] = {name: getattr(rows, name) for name in SETS}
    encoded = {name: data.encoded_items(name) for name in SETS}

    cut = {name: found.cut for name, found in report.sets.items()}
    sets = {
        name: _set_check(items[name], encoded[name], cut[name]) for name in SETS if encoded[name]
    }
    choices = any(len(item.choices) > 1 for item in items["test"])
    baselines = _baselines(items["train"], items["test"]) if choices else {}
    unknown = _unknown_share(data, encoded)
    return DataCheck(
        task=data.task.name,
        metric=data.task.metric,
        max_length=data.max_length,
        read={name: rows.read[name] for name in sorted(rows.read, key=_split_order(data))},
        left_out=dict(rows.dropped),
        sets=sets,
        baselines=baselines,
        unknown=unknown,
        duplicates=find_duplicates(items),
        problems=find_problems(Evidence(items, encoded, cut, baselines, unknown)),
        examples=[
            example(data.tokenizer, encoded[name][0], name, items[name][0].where)
            for name in SETS
            if encoded[name]
        ],
        report=report,
    )


def _split_order(data: DomainData) -> Callable[[str], int]:
    splits = list(data.task.splits)
    return lambda name: splits.index(name) if name in splits else len(splits)


def lengths(values: Sequence[int]) -> Lengths:
    """Statistics of lengths in tokens.

    Args:
        values: The lengths; at least one.
    """
    order = sorted(values)
    low, high = order[0], order[-1]
    width = max(1, high - low + 1)
    bins = Counter((value - low) * BINS // width for value in order)
    return Lengths(
        min=low,
        median=order[(len(order) - 1) // 2],
        p95=order[-(-len(order) * 95 // 100) - 1],
        max=high,
        histogram=tuple(bins[i] for i in range(BINS)),
    )


def _set_check(items: Sequence[Item], encoded: Sequence[EncodedItem], cut: int) -> SetCheck:
    answer = [item.choice_index.count(item.gold) for item in encoded]
    # the last token of a text is only a target
    right = [
        item.continuations.count(0) + item.continuations.count(item.gold + 1) + 1
        for item in encoded
    ]
    return SetCheck(
        items=len(items),
        texts=len(encoded),
        cut=cut,
        length=lengths([max(item.positions) + 2 for item in encoded]),
        prompt=lengths([a - b for a, b in zip(right, answer, strict=True)]),
        answer=lengths(answer),
        positions=right_positions(items),
        labels=right_labels(items),
    )


def _baselines(train: Sequence[Item], test: Sequence[Item]) -> dict[str, float]:
    """What is reached on test without a model, in percent."""
    found = {
        "guessing": 100 * sum(1 / len(item.choices) for item in test) / len(test),
        "majority": majority_accuracy(train, test),
        "word_overlap": word_overlap_accuracy(test),
        "longest_choice": longest_choice_accuracy(test),
    }
    if labels := right_labels(train):
        frequent = next(iter(labels))
        said = [item.choices[item.gold].strip() == frequent for item in test]
        found["majority_label"] = 100 * sum(said) / len(test)
    return found


def _unknown_share(data: DomainData, encoded: Mapping[str, Sequence[EncodedItem]]) -> float | None:
    """Share of the tokens that the model reads that are the unknown token."""
    tokenizer = data.tokenizer
    unknown = tokenizer.unk_token_id
    # GPT-2 names its end of text as its unknown token, and never needs one
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return None
    found = every = 0
    for item in chain.from_iterable(encoded.values()):
        found, every = found + item.tokens.count(unknown), every + len(item.tokens)
    return found / max(1, every)

"""Lengths of a run's items, from its rows or assumed, and the batches that they are computed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trimlab.data.batching import length_groups
from trimlab.data.capacity import Capacity
from trimlab.data.domain import DomainData
from trimlab.data.encoding import EncodedItem
from trimlab.data.sampler import LengthBuckets
from trimlab.errors import InputError
from trimlab.planning.settings import RunSettings

ASSUMED_TOKENS = (128, 512)  # mean and longest text without rows at hand
ASSUMED_ROWS = {"train": 10_000, "test": 1_000}
ANSWER = 8  # tokens of an answer
CHOICES = 4


class ItemSize(NamedTuple):
    """An item as the model computes it.

    Attributes:
        tokens: Its tokens; of an item with choices, those of all of them behind one context.
        scored: Positions on which the LM head runs: of an item with choices, those of the
            likeliest one; it runs once for the first tokens of all others.
        all_scored: The same where every choice is scored in full, as on a GPU.
        right_tokens: Its tokens with the right choice alone.
    """

    tokens: int
    scored: int
    all_scored: int
    right_tokens: int

    @property
    def right_alone(self) -> "ItemSize":
        """The item without its wrong choices."""
        return ItemSize(self.right_tokens, self.scored, self.scored, self.right_tokens)


class BatchShape(NamedTuple):
    """A batch that is computed at once.

    Attributes:
        items: Its items (B).
        length: Tokens of each, padding included (T).
        scored: Positions on which the LM head runs, of all items.
    """

    items: int
    length: int
    scored: int

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return self.items * self.length


@dataclass(frozen=True)
class Workload:
    """The items of a run.

    Attributes:
        train: Training items, each with its right choice alone or, for a loss that compares them,
            with all its choices.
        calibration: Calibration items with all their choices.
        dev: Dev items with all their choices.
        test: Test items with all their choices.
        source: Where the lengths come from, for people.
    """

    train: Sequence[ItemSize]
    calibration: Sequence[ItemSize]
    dev: Sequence[ItemSize]
    test: Sequence[ItemSize]
    source: str

    @property
    def longest(self) -> int:
        """Tokens of the longest item."""
        return max(item.tokens for item in (*self.train, *self.calibration, *self.dev, *self.test))

    def batches(self, settings: RunSettings) -> list[list[BatchShape]]:
        """The batches of the first epoch, each in the parts that it is computed in."""
        loss = settings.training_loss
        train = [item if loss.all_choices else item.right_alone for item in self.train]
        if loss.head_everywhere:
            train = [item._replace(all_scored=item.tokens) for item in train]
        lengths = [item.tokens for item in train]
        order = LengthBuckets(lengths, settings.batch_size, settings.seed, epoch=lambda: 0)
        batches = list(order)[: settings.batches_of(len(order))]
        return [
            batch_shapes([train[i] for i in batch], settings.train_tokens, in_full=True)
            for batch in batches
        ]


def batch_shapes(
    items: Sequence[ItemSize],
    max_tokens: int,
    pass_tokens: int = Capacity().pass_tokens,
    *,
    in_full: bool = False,
) -> list[BatchShape]:
    """Batches of items of similar length, the longest first.

    Args:
        items: The items.
        max_tokens: Most tokens of a batch, see `length_groups`.
        pass_tokens: Cost of a forward pass apart from its tokens.
        in_full: Whether every choice is scored in full.
    """
    groups = length_groups([item.tokens for item in items], max_tokens, pass_tokens)
    scored = [item.all_scored if in_full else item.scored for item in items]
    return [
        BatchShape(len(group), items[group[0]].tokens, sum(scored[i] for i in group))
        for group in groups
    ]


def of_rows(data: DomainData, all_choices: bool = False) -> Workload:
    """The items of a domain, tokenised.

    Args:
        data: The domain.
        all_choices: Whether training items have all their choices.

    Raises:
        InputError: The rows cannot be read.
    """
    data.setup()
    assert data.rows is not None
    held_out = {
        name: [s for item in getattr(data.rows, name) for s in map(_size, data._parts(item))]
        for name in ("calibration", "dev", "test")
    }
    train = [_size(item) for item in data.train_items(all_choices)]
    return Workload(train, **held_out, source=f"the rows of {data.task.name}")


def _size(item: EncodedItem) -> ItemSize:
    right = [i for i, c in zip(item.logit_index, item.choice_index, strict=True) if c == item.gold]
    right_tokens = sum(text in (0, 1 + item.gold) for text in item.continuations)
    scored = len(set(right)), len(set(item.logit_index))
    return ItemSize(len(item.tokens), *scored, right_tokens)


def assumed(
    counts: dict[str, int],
    tokens: tuple[int, int] = ASSUMED_TOKENS,
    *,
    choices: int = CHOICES,
    all_choices: bool = False,
) -> Workload:
    """Items of assumed lengths.

    Args:
        counts: Number of items of `train`, `calibration`, `dev` and `test`.
        tokens: Mean and longest text in tokens, answer included.
        choices: Choices of an item that is scored.
        all_choices: Whether training items have all their choices.
    """
    mean, longest = tokens
    answer = min(ANSWER, max(1, mean // 2))
    more = (choices - 1) * answer  # tokens of the other choices

    def items(n: int, extra: int) -> list[ItemSize]:
        # all choices begin behind one position
        scored = answer, answer + extra - extra // answer
        return [ItemSize(length + extra, *scored, length) for length in spread(n, mean, longest)]

    return Workload(
        items(counts["train"], more * all_choices),
        items(counts["calibration"], more),
        items(counts["dev"], more),
        items(counts["test"], more),
        source=f"assumed: {mean} tokens on average, {longest} at most (--tokens MEAN,MAX)",
    )


def spread(n: int, mean: int, longest: int) -> list[int]:
    """Lengths with this mean and maximum, from half of the mean on; short ones are frequent."""
    if longest <= mean or n == 1:
        return [longest] * n
    shortest = max(1, mean // 2)
    power = (longest - shortest) / max(1, mean - shortest) - 1
    steps = [((i + 0.5) / n) ** power for i in range(n - 1)]
    return [*(round(shortest + (longest - shortest) * step) for step in steps), longest]


def parse_tokens(text: str) -> tuple[int, int]:
    """Mean and longest text, from `MEAN,MAX`.

    Raises:
        InputError: The text says something else.
    """
    parts = text.split(",")
    if len(parts) == 2 and all(part.strip().isdecimal() for part in parts):
        mean, longest = map(int, parts)
        if 1 <= mean <= longest:
            return mean, longest
    raise InputError(f"--tokens takes the mean and the longest text in tokens, 128,512, not {text}")

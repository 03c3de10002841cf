"""Encoded items to padded batches of items of similar length."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from trimlab.data.encoding import EncodedItem

PASS_TOKENS = 32  # cost of a forward pass apart from its tokens, in tokens


@dataclass  # not frozen: Lightning's half precisions copy a batch and assign the copy's fields
class Batch:
    """Encoded items, padded on the right to the longest of them.

    Attributes:
        input_ids: Token ids, 0 for padding.  # (B, T)
        positions: Position ids, 0 for padding.  # (B, T)
        continuations: 0 in the prefix, 1 + k in the continuation of choice k, -1 for
            padding.  # (B, T)
        item_index: Item of each scored token.  # (P,)
        logit_index: Index in time of the token that predicts it.  # (P,)
        targets: Its token id.  # (P,)
        choice_index: Its choice.  # (P,)
        gold: Right choice of each item.  # (B,)
        order: Index of each item in the set that the batch was taken from.  # (B,)
    """

    input_ids: Tensor
    positions: Tensor
    continuations: Tensor
    item_index: Tensor
    logit_index: Tensor
    targets: Tensor
    choice_index: Tensor
    gold: Tensor
    order: Tensor

    def __len__(self) -> int:
        return self.gold.shape[0]

    @property
    def n_choices(self) -> int:
        """The largest number of choices of an item."""
        return int(self.choice_index.max()) + 1

    @property
    def scored_positions(self) -> Tensor:
        """Indices, into batch and time flattened, where scored tokens are predicted.  # (U,)"""
        return (self.item_index * self.input_ids.shape[1] + self.logit_index).unique()

    @property
    def choice_tokens(self) -> Tensor:
        """Number of scored tokens of every choice, 0 for choices that an item lacks.  # (B, K)"""
        shape = len(self), self.n_choices
        choice_of = self.item_index * shape[1] + self.choice_index
        return torch.bincount(choice_of, minlength=shape[0] * shape[1]).view(shape)

    @property
    def token_mask(self) -> Tensor:
        """True for tokens, False for padding.  # (B, T)"""
        return self.continuations >= 0

    def to(self, device: torch.device | str) -> "Batch":
        """A copy on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def scoring(self, chosen: Tensor) -> "Batch":
        """The same items with some of their scored tokens.

        Args:
            chosen: Mask (P,) or indices of the scored tokens that stay.
        """
        names = ("item_index", "logit_index", "targets", "choice_index")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def repeated(self, times: int) -> "Batch":
        """The same items several times over, one copy after another."""
        copies = {
            f.name: torch.cat([getattr(self, f.name)] * times)
            for f in fields(self)
            if f.name != "item_index"
        }
        items = torch.cat([self.item_index + copy * len(self) for copy in range(times)])
        return replace(self, item_index=items, **copies)

    def parts(self, max_tokens: int) -> list["Batch"]:
        """The same items in smaller batches of similar length, see `length_groups`.

        Args:
            max_tokens: Most tokens of a part, padding included.
        """
        lengths = self.token_mask.sum(1).tolist()
        groups = length_groups(lengths, max_tokens)
        return [self._items(torch.tensor(g, device=self.gold.device)) for g in groups]

    def _items(self, chosen: Tensor) -> "Batch":
        """Some of the items, padded to the longest of them.

        Args:
            chosen: Indices of the items, in their new order.  # (b,)
        """
        new_index = torch.full_like(self.gold, -1)  # (B,), -1 for items left out
        new_index[chosen] = torch.arange(len(chosen), device=new_index.device)
        item_index = new_index[self.item_index]  # (P,)
        by_item = item_index.argsort(stable=True)  # scored tokens in the new order of the items
        part = self.scoring(by_item[(item_index < 0).sum() :])
        longest = int(self.token_mask[chosen].sum(1).max())
        tokens = ("input_ids", "positions", "continuations")
        return replace(
            part,
            item_index=new_index[part.item_index],
            gold=self.gold[chosen],
            order=self.order[chosen],
            **{name: getattr(self, name)[chosen, :longest] for name in tokens},
        )


def collate(items: Sequence[EncodedItem], indices: Sequence[int] | None = None) -> Batch:
    """Pads encoded items into a batch.

    Args:
        items: Encoded items.
        indices: Indices of the items of the batch, in its order; all items if not given.
    """
    indices = range(len(items)) if indices is None else indices
    items = [items[i] for i in indices]
    longest = max(len(item.tokens) for item in items)

    def padded(values: Sequence[tuple[int, ...]], filler: int) -> Tensor:
        return torch.tensor([[*v, *[filler] * (longest - len(v))] for v in values])

    def flat(values: Sequence[tuple[int, ...]]) -> Tensor:
        return torch.tensor([x for v in values for x in v])

    return Batch(
        input_ids=padded([item.tokens for item in items], 0),
        positions=padded([item.positions for item in items], 0),
        continuations=padded([item.continuations for item in items], -1),
        item_index=flat([(i,) * len(item.targets) for i, item in enumerate(items)]),
        logit_index=flat([item.logit_index for item in items]),
        targets=flat([item.targets for item in items]),
        choice_index=flat([item.choice_index for item in items]),
        gold=torch.tensor([item.gold for item in items]),
        order=torch.tensor(indices),
    )


def length_groups(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups texts of similar length, at the least cost.

    The cost of a group is its tokens, padding included, and `PASS_TOKENS`. Dynamic programming
    over the texts in order of length finds the cheapest grouping.

    Args:
        lengths: Length of every text, in tokens.
        max_tokens: Most tokens (padding included) of a group; a longer text is a group alone.

    Returns:
        Indices into `lengths` by group, longest texts first: the peak of memory comes first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # by number of texts, the least cost of grouping that many, and the start of the last group
    cheapest, starts = [0], [0]
    for stop in range(1, len(order) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            tokens = lengths[order[start]] * (stop - start)
            if tokens > max_tokens and stop - start > 1:
                break
            options.append((cheapest[start] + tokens + PASS_TOKENS, start))
        cost, start = min(options)
        cheapest.append(cost)
        starts.append(start)
    groups, stop = [], len(order)
    while stop:
        groups.append(order[starts[stop] : stop])
        stop = starts[stop]
    return groups[::-1]


def batches(items: Sequence[EncodedItem], max_tokens: int) -> list[list[int]]:
    """Indices into `items` of batches of similar length, see `length_groups`."""
    return length_groups([len(item.tokens) for item in items], max_tokens)


def scan_batches(items: Sequence[EncodedItem], max_tokens: int) -> list[Batch]:
    """Batches of calibration items for a scan.

    They are small, so that the items of a batch have about the same length and padding is rare. A
    scan fills the rest of `max_tokens` with candidates.

    Args:
        items: Encoded items.
        max_tokens: Most tokens that are computed at once, see `scan`.
    """
    return [collate(items, group) for group in batches(items, max_tokens // 4)]

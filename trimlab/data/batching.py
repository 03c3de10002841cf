"""Encoded items to padded batches of items of similar length."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trimlab import ranks
from trimlab.data.capacity import Capacity
from trimlab.data.encoding import EncodedItem


@dataclass  # not frozen: Lightning's half precisions copy a batch and assign the copy's fields
class Batch:
    """Encoded items, padded on the right to the longest of them.

    A batch on a GPU keeps the batch on the CPU that it was copied from. Everything whose shape
    depends on values (lengths, parts, where the LM head runs) is worked out there and copied, so
    that the CPU never waits for the GPU.

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
        source: The batch on the CPU that this one is a copy of; None for one on the CPU, and
            where it is not known, see `on_host`.
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
    source: "Batch | None" = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.gold.shape[0]

    # ---- facts that the CPU knows -------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.gold.device

    @cached_property
    def on_host(self) -> "Batch":
        """The same batch on the CPU; waits for the device only where `source` is not known."""
        if self.device.type == "cpu":
            return self
        return self.to("cpu")

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of every item."""
        return self.on_host.token_mask.sum(1).tolist()

    @cached_property
    def is_tree(self) -> bool:
        """Whether an item has continuations, so that a causal mask is not enough."""
        return bool((self.on_host.continuations > 0).any())

    @cached_property
    def n_choices(self) -> int:
        """The largest number of choices of an item."""
        return int(self.on_host.choice_index.max()) + 1

    @cached_property
    def scored_positions(self) -> Tensor:
        """Indices, into batch and time flattened, where scored tokens are predicted.  # (U,)"""
        positions, _ = self.on_host.head_rows(self.input_ids.shape[1])
        return to_device(positions, self.device)

    def head_rows(self, length: int) -> tuple[Tensor, Tensor]:
        """The positions on which the LM head runs, and the scored tokens that they predict.

        Args:
            length: Length in time of the hidden states that `logit_index` points into.

        Returns:
            Indices, into batch and time flattened, ascending (U,); and for each scored token, the
            index of its position among these (P,). Both are on the CPU.
        """
        host = self.on_host
        return (host.item_index * length + host.logit_index).unique(return_inverse=True)

    # ---- tensors on the device of the batch ---------------------------------------------------

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

    # ---- other batches ------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> "Batch":
        """A copy on another device. A copy from the CPU to a GPU does not wait for the GPU."""
        device = torch.device(device)
        source = self if self.device.type == "cpu" else self.source
        if device.type == "cpu":
            if source is not None:
                return source
            return replace(self, **{name: getattr(self, name).cpu() for name in TENSORS})
        moved = {name: to_device(getattr(self, name), device) for name in TENSORS}
        return replace(self, source=source, **moved)

    def scoring(self, chosen: Tensor) -> "Batch":
        """The same items with some of their scored tokens.

        Args:
            chosen: Mask (P,) or indices of the scored tokens that stay. From the CPU, they are
                chosen there as well, and a GPU does not wait.
        """
        source = None
        if self.device.type != "cpu" and chosen.device.type == "cpu":
            source = self.on_host.scoring(chosen)
            indices = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
            chosen = to_device(indices, self.device)
        names = ("item_index", "logit_index", "targets", "choice_index")
        return replace(self, source=source, **{name: getattr(self, name)[chosen] for name in names})

    def unscored(self) -> "Batch":
        """The same items without scored tokens: they add nothing to a loss or its gradients."""
        return self.scoring(torch.zeros(0, dtype=torch.long))

    def repeated(self, times: int) -> "Batch":
        """The same items several times over, one copy after another."""
        copies = {
            name: torch.cat([getattr(self, name)] * times)
            for name in TENSORS
            if name != "item_index"
        }
        items = torch.cat([self.item_index + copy * len(self) for copy in range(times)])
        source = None if self.source is None else self.source.repeated(times)
        return replace(self, item_index=items, source=source, **copies)

    def parts(self, max_tokens: int) -> list["Batch"]:
        """The same items in smaller batches of similar length, see `length_groups`.

        Args:
            max_tokens: Most tokens of a part, padding included.
        """
        groups = length_groups(self.lengths, max_tokens)
        return [self.on_host._items(torch.tensor(g)).to(self.device) for g in groups]

    def _items(self, chosen: Tensor) -> "Batch":
        """Some of the items of a batch on the CPU, padded to the longest of them.

        Args:
            chosen: Indices of the items, in their new order.  # (b,)
        """
        new_index = torch.full_like(self.gold, -1)  # (B,), -1 for items left out
        new_index[chosen] = torch.arange(len(chosen))
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


TENSORS = tuple(f.name for f in fields(Batch) if f.name != "source")


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device; a copy from the CPU to a GPU does not wait for the GPU."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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


def length_groups(
    lengths: Sequence[int], max_tokens: int, pass_tokens: int = Capacity().pass_tokens
) -> list[list[int]]:
    """Groups texts of similar length, at the least cost.

    The cost of a group is its tokens, padding included, and `pass_tokens`. Dynamic programming
    over the texts in order of length finds the cheapest grouping.

    Args:
        lengths: Length of every text, in tokens.
        max_tokens: Most tokens (padding included) of a group; a longer text is a group alone.
        pass_tokens: Cost of a forward pass apart from its tokens, in tokens.

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
            options.append((cheapest[start] + tokens + pass_tokens, start))
        cost, start = min(options)
        cheapest.append(cost)
        starts.append(start)
    groups, stop = [], len(order)
    while stop:
        groups.append(order[starts[stop] : stop])
        stop = starts[stop]
    return groups[::-1]


def batches(
    items: Sequence[EncodedItem], max_tokens: int, pass_tokens: int = Capacity().pass_tokens
) -> list[list[int]]:
    """Indices into `items` of batches of similar length, see `length_groups`."""
    return length_groups([len(item.tokens) for item in items], max_tokens, pass_tokens)


def scan_batches(items: Sequence[EncodedItem], max_tokens: int) -> list[Batch]:
    """Batches of calibration items for a scan.

    They are small, so that the items of a batch have about the same length and padding is rare. A
    scan fills the rest of `max_tokens` with candidates.

    Args:
        items: Encoded items.
        max_tokens: Most tokens that are computed at once, see `scan`.
    """
    return [collate(items, group) for group in batches(items, max_tokens // 4)]


class BatchDataset(Dataset[Batch]):
    """Encoded items; the "index" of an element is a list of indices, and the element a batch.

    Several processes divide a batch item by item, so that optimizer steps do not depend on their
    number. Without an item of its own, one has the first item without scored tokens.
    """

    def __init__(self, items: Sequence[EncodedItem]):
        self.items = items

    def __getitem__(self, indices: list[int]) -> Batch:
        mine = ranks.share(indices)
        return collate(self.items, mine) if mine else collate(self.items, indices[:1]).unscored()

"""The order of training batches: shuffled, in buckets of similar length."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LengthBuckets(Sampler[list[int]]):
    """Shuffled training batches of items of similar length.

    The order comes from (seed, epoch) alone, so that a resumed run sees the same one. The epoch
    is asked for when the first batch is: Lightning makes the iterator of a resumed epoch, and
    calls `set_epoch`, before it has counted the epochs that the checkpoint had finished.

    Args:
        lengths: Length of every item, in tokens.
        batch_size: Items per batch.
        seed: Seed of the order.
        epoch: Gives the current epoch.
        pool: Batches' worth of items that are sorted by length together: the larger, the less
            padding and the less random the company of an item.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        pool: int = 16,
    ):
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # seeds of different (seed, epoch) never meet: one epoch's order is not another's
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size
        groups: list[list[int]] = []
        for start in range(0, len(order), self.pool * size):
            pool = sorted(order[start : start + self.pool * size], key=lambda i: self.lengths[i])
            groups += [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in torch.randperm(len(groups), generator=generator).tolist():
            yield groups[i]

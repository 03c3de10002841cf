"""The order of training batches: shuffled, in batches of similar length."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

SEED_STRIDE = 1_000_003  # epochs that a run never reaches: no two (seed, epoch) share a generator


class LengthBuckets(Sampler[list[int]]):
    """Shuffled batches of items of similar length.

    The items are shuffled and dealt to pools. Each pool is sorted by length and cut into batches,
    and the batches of all pools are shuffled. The order depends on (seed, epoch) alone, so that a
    resumed run repeats it.

    `epoch` is a function because it must be called with the first batch and not earlier: Lightning
    makes the iterator of a resumed epoch, and calls `set_epoch`, before it restores the number of
    finished epochs. `done` is one for the same reason.

    Args:
        lengths: Length of every item, in tokens.
        batch_size: Items per batch. The last batch of the last pool may be smaller.
        seed: Seed of the order.
        epoch: Returns the current epoch.
        pool: Sorting pool in batches: larger pools pad less but shuffle less.
        done: Returns the number of batches of this epoch that a checkpoint holds already.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        pool: int = 16,
        done: Callable[[], int] = lambda: 0,
    ):
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + self.epoch())
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches: list[list[int]] = []
        pool_size = self.pool * self.batch_size
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda i: self.lengths[i])
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist()[self.done() :]:
            yield batches[i]

"""Rounds of an early-stopping scan: the passes that workers run before the next decision."""

from collections.abc import Sequence
from typing import NamedTuple

# With one worker every pass is followed by a decision. Several would wait for one another; tried
# on records of right and wrong answers, more passes than this mostly compute what is not needed.
PASSES_PER_ROUND = 8

FEW = 3  # candidates per worker: below it, workers take items of their own


class Pass(NamedTuple):
    """One item, run without each of some candidates.

    Attributes:
        item: Index of the item.
        group: Indices of the candidates, in the order of execution.
    """

    item: int
    group: list[int]


def plan_round(
    lengths: Sequence[int], group: Sequence[int], max_tokens: int, n_workers: int
) -> list[Pass]:
    """Plans a round.

    Many candidates are divided among the workers, all on the first item. With few candidates each
    worker takes an item of its own: the items after the first will almost surely be needed.

    Args:
        lengths: Tokens of the items that the candidates have still to meet, in their order.
        group: Candidates by index, the most likely choice first.
        max_tokens: Most tokens that all workers compute at once.
        n_workers: Number of workers.

    Returns:
        Passes, the longest first. No pass has more tokens than a worker's share, unless it has a
        single candidate.
    """

    def room(item: int) -> int:  # candidates in one pass
        return max(1, max_tokens // n_workers // lengths[item])

    few = len(group) < FEW * n_workers
    n_passes = 1 if n_workers == 1 else PASSES_PER_ROUND
    group = sorted(group[: n_passes * room(0)])
    if few:
        items = range(min(n_workers, len(lengths)))
        divisions = [(item, -(-len(group) // room(item))) for item in items]
    else:
        per_worker = -(-len(group) // room(0) // n_workers)
        divisions = [(0, min(len(group), per_worker * n_workers))]
    # dealt in turn, since early candidates run most blocks
    passes = [Pass(item, group[start::n]) for item, n in divisions for start in range(n)]
    return sorted(passes, key=lambda p: len(p.group) * lengths[p.item], reverse=True)

"""Calibration items in the order in which an early-stopping scan meets them, with their caches.

Only a wrong answer raises the score of a candidate. So the items that the whole model answers
wrong come first, the shortest of them in front, and then the others by growing margin.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trimlab import ranks
from trimlab.cpu.workers import Workers
from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import EncodedItem
from trimlab.evaluation.likelihoods import choice_likelihoods
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.candidates import Candidate
from trimlab.scanning.forward_cache import ForwardCache, cache_forward
from trimlab.scanning.statistics import OutputStatistic
from trimlab.scanning.sublayer_stats import SublayerStats, output_statistics


class CachedItems(NamedTuple):
    """Items that a candidate meets together, and their forward pass of the whole model.

    Attributes:
        batch: The items: one on a CPU; on a GPU as many as fill a pass without each candidate.
        cache: Their forward pass. It may have more padding on the right than a batch of one item:
            padding changes no earlier position.
    """

    batch: Batch
    cache: ForwardCache


def priority(item: EncodedItem, margin: float) -> tuple[bool, float]:
    """Sort key of items: those answered wrong by length, then the others by margin.

    Args:
        item: An item.
        margin: Log-likelihood of its right choice over that of the best other one.
    """
    wrong = margin < 0
    return not wrong, len(item.tokens) if wrong else margin


def cache_items(
    workers: Workers,
    found: Sequence[Candidate],
    items: Sequence[EncodedItem],
    batches: Sequence[Batch],
    *,
    output: Mapping[str, OutputStatistic],
    max_tokens: int,
) -> tuple[list[CachedItems], dict[str, list[float]]]:
    """Runs every batch once and, on a GPU, once more in groups of items of similar priority.

    Args:
        workers: Run the passes.
        found: The candidates.
        items: The items.
        batches: Batches of all of them.
        output: Statistics to compute on the way.
        max_tokens: Most tokens of a pass.

    Returns:
        The items by priority, and the output statistics.
    """

    def run(stack: SublayerStack, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Any]:
        batch = batch.to(stack.model.device)
        stats = SublayerStats(found, output, batch)
        cache = cache_forward(stack, batch, stats.on_sublayer)
        likelihoods = choice_likelihoods(stack, cache.hidden, batch)  # (B, K)
        gold = likelihoods.gather(1, batch.gold[:, None])  # (B, 1)
        others = likelihoods.scatter(1, batch.gold[:, None], -torch.inf)  # (B, K)
        return stats.sums(), gold[:, 0] - others.amax(1), cache if _one_by_one(stack) else None

    def run_again(stack: SublayerStack, batch: Batch) -> CachedItems:
        batch = batch.to(stack.model.device)
        return CachedItems(batch, cache_forward(stack, batch))

    sums, margins, caches = zip(*workers.map(run, batches), strict=True)
    indices = [index for batch in batches for index in batch.order.tolist()]
    found_margins = ranks.agreed(torch.cat(margins).tolist())
    keys = [priority(items[i], m) for i, m in zip(indices, found_margins, strict=True)]
    order = sorted(range(len(indices)), key=keys.__getitem__)
    if caches[0] is None:
        groups = _grouped([indices[place] for place in order], items, max_tokens // len(found))
        cached = list(workers.map(run_again, [collate(items, group) for group in groups]))
    else:
        rows = [cache.of_item(row) for cache in caches for row in range(len(cache.hidden))]
        cached = [CachedItems(collate([items[indices[place]]]), rows[place]) for place in order]
    return cached, ranks.agreed(output_statistics(output, sums))


def _one_by_one(stack: SublayerStack) -> bool:
    """Whether candidates meet one item at a time: a GPU wants more to do before the next wait."""
    return stack.model.device.type == "cpu"


def _grouped(
    order: Sequence[int], items: Sequence[EncodedItem], max_tokens: int
) -> list[Sequence[int]]:
    """Splits items into groups without changing their order.

    Args:
        order: Indices of the items.
        items: All items.
        max_tokens: Most tokens of a group, padding included; a longer item is a group alone.
    """
    groups: list[Sequence[int]] = []
    start = 0
    for stop in range(1, len(order) + 1):
        longest = max(len(items[i].tokens) for i in order[start : stop + 1])
        if stop == len(order) or longest * (stop + 1 - start) > max_tokens:
            groups.append(order[start:stop])
            start = stop
    return groups

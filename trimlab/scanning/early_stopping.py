"""The scan when only the choice is needed: candidates that cannot be chosen stop early.

A candidate's accuracy is at most what it would be if every item it has not met yet came out
right; its score, which falls as accuracy rises, is at least the score of that. So the candidates
in front are run on, an item or a few at a time, until those that would be chosen have met every
item. Nobody behind them can pass them any more: the choice is that of a whole scan, ties
included. (Up to rounding: who is computed beside whom differs, and an item whose two likeliest
choices are less than that apart may come out either way.)

A candidate falls back by a wrong answer alone. So the items that the model gets wrong as it is
come first, the shortest of them in front, and after them those of which it is least sure.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from trimlab.cpu import inference
from trimlab.cpu.workers import Workers
from trimlab.data.batching import Batch, collate, scan_batches
from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.evaluation.likelihoods import choice_likelihoods, winning_likelihoods
from trimlab.evaluation.metrics import chosen
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.candidates import Candidate, Granularity, candidates
from trimlab.scanning.forward_cache import ForwardCache, cache_forward, hidden_without
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import Scores
from trimlab.scanning.statistics import BatchStats, Measure, SublayerStats

MAX_BYTES = 4 * 2**30


# Where workers would else wait for each other. Tried on records of who answers which item: with
# much more, more is computed in vain.
ROUND = 8  # passes on one item, at most, before the front is looked up again


FEW = 3  # candidates for each worker


class KeptItem(NamedTuple):
    """An item, and all that a restart needs of a plain pass over it.

    Attributes:
        batch: The item alone, without padding.
        cache: The pass, as long as its batch was: what pads it on the right moves no place.
        margin: How far the right choice's log-likelihood is ahead of the best other's; negative
            if the model is wrong.
    """

    batch: Batch
    cache: ForwardCache
    margin: float

    @property
    def turn(self) -> tuple[bool, float]:
        """What comes first: the wrong by length, then the others by margin."""
        wrong = self.margin < 0
        return not wrong, self.batch.input_ids.numel() if wrong else self.margin


@torch.inference_mode()
def best_first_scan(
    stack: SublayerStack,
    items: Sequence[EncodedItem],
    score: Callable[[Scan], Scores],
    choose: Callable[[Scores], list[int]],
    granularity: Granularity = "sublayer",
    measures: Iterable[Measure] = ("accuracy", "norm"),
    max_tokens: int = 1024,
    max_bytes: int | None = None,
    step: int = 0,
    progress: bool = False,
    seed: int = 0,
) -> Scan:
    """Measures as much as it takes to know which candidates will be chosen.

    Args:
        stack: The model.
        items: Calibration items; their metric is accuracy.
        score: A scorer whose scores never rise with accuracy.
        choose: Indices of the candidates that are chosen, given all scores.
        granularity: What is dropped together, see `calibration.candidates`.
        measures: What the scorer needs; everything but accuracy is measured in full.
        max_tokens: Most tokens that are computed at once, see `calibration.scan`.
        max_bytes: Most bytes of residual streams that are kept, by default 4 GiB, or a quarter of a
            GPU. If all of them do not fit, a whole scan is made, which works batch by batch.
        step: How many scans came before this one.
        progress: Show a bar; it ends early.
        seed: Seed of the run, for scores that draw numbers.

    Returns:
        Like a whole scan, with an upper bound in place of the accuracy of every candidate whose
        entry in `items` is less than the number of items. How far such a one got depends on the
        number of workers.

    Raises:
        InputError: There is nothing to measure on.
    """
    if not items:
        raise InputError("a scan needs calibration items")
    model, width = stack.model, stack.model.config.hidden_size
    by_length = scan_batches(items, max_tokens)
    numbers = sum(batch.input_ids.numel() for batch in by_length) * width * len(stack)
    if numbers * model.dtype.itemsize > (_room(model.device) if max_bytes is None else max_bytes):
        return scan(
            stack,
            by_length,
            granularity,
            measures,
            step=step,
            progress=progress,
            max_tokens=max_tokens,
            seed=seed,
        )

    plain = Scan(candidates(stack, granularity), n_blocks=len(stack.blocks), step=step, seed=seed)
    # the products and the workers of a whole scan
    with inference(stack) as workers:
        # in a frame of its own: all that it keeps is gone before the weights are put back
        return _until_chosen(
            workers, plain, items, by_length, measures, score, choose, max_tokens, progress
        )


def _until_chosen(
    workers: Workers,
    plain: Scan,
    items: Sequence[EncodedItem],
    batches: Sequence[Batch],
    measures: Iterable[Measure],
    score: Callable[[Scan], Scores],
    choose: Callable[[Scores], list[int]],
    max_tokens: int,
    progress: bool,
) -> Scan:
    found = plain.candidates
    stats = SublayerStats(found, measures)
    kept = _plain_passes(workers, items, batches, stats)
    plain = replace(plain, norm=stats.norm, similarity=stats.similarity)
    right, met = [0] * len(found), [0] * len(found)

    def as_far_as_known() -> Scan:
        hoped = [100 * ((r + len(items) - m) / len(items)) for r, m in zip(right, met, strict=True)]
        return replace(plain, accuracy=hoped, items=list(met))

    total = len(found) * len(items)
    with tqdm(total=total, desc="scan", unit="item", disable=not progress, leave=False) as bar:
        while True:
            scores = score(as_far_as_known())
            front = next((i for i in choose(scores) if met[i] < len(items)), None)
            if front is None:
                return as_far_as_known()
            # whoever is as good so far will likely have to meet the same items
            alike = (right[front], met[front])
            equals = [i for i in range(len(found)) if (right[i], met[i]) == alike]
            behind = [i for i in equals if i != front and scores[i] >= scores[front]]
            group = [front, *sorted(behind, key=scores.__getitem__)]
            shares = _shares(kept[met[front] :], group, max_tokens, workers.n)
            parts = [(item, [found[i] for i in share]) for item, share in shares]
            answered = workers.map(_answers_without, parts)
            for (_, share), answers in zip(shares, answered, strict=True):
                for index, is_right in zip(share, answers, strict=True):
                    right[index] += is_right
                    met[index] += 1
                bar.update(len(share))


def _shares(
    items: Sequence[KeptItem], group: Sequence[int], max_tokens: int, n_workers: int
) -> list[tuple[KeptItem, list[int]]]:
    """What is run before anybody looks again who is in front.

    Many candidates are shared out on the first item. Of few, each worker takes an item of its own:
    the items behind the first are needed almost surely.

    Args:
        items: What the candidates have still to meet.
        group: Candidates, the one in front first.
        max_tokens: Most tokens that all workers compute at once.
        n_workers: Number of workers.

    Returns:
        Items, and the candidates that meet them, in the order of execution; the longest first.
    """

    def length(item: KeptItem) -> int:
        return item.cache.hidden.shape[1]

    def room(item: KeptItem) -> int:
        return max(1, max_tokens // n_workers // length(item))

    few = len(group) < FEW * n_workers
    passes = 1 if n_workers == 1 else ROUND
    group = sorted(group[: passes * room(items[0])])
    if few:
        each = [(item, -(-len(group) // room(item))) for item in items[:n_workers]]
    else:
        for_each_worker = -(-len(group) // room(items[0]) // n_workers)
        each = [(items[0], min(len(group), for_each_worker * n_workers))]
    # dealt like cards, since early candidates run most blocks
    shares = [(item, group[start::n]) for item, n in each for start in range(n)]
    return sorted(shares, key=lambda share: len(share[1]) * length(share[0]), reverse=True)


def _answers_without(
    stack: SublayerStack, part: tuple[KeptItem, Sequence[Candidate]]
) -> list[bool]:
    """Whether the item is answered right without each of some candidates."""
    item, group = part
    batch = item.batch
    hidden = hidden_without(stack, item.cache, group, batch.scored_positions)  # (C, T, D)
    likelihoods = winning_likelihoods(stack, hidden, batch.repeated(len(group)))  # (C, K)
    return (chosen(likelihoods) == batch.gold).tolist()


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return MAX_BYTES


def _plain_passes(
    workers: Workers,
    items: Sequence[EncodedItem],
    batches: Sequence[Batch],
    stats: SublayerStats,
) -> list[KeptItem]:
    """Runs every batch once, and takes it apart into its items, in the order of their turns."""

    def keep(stack: SublayerStack, batch: Batch) -> tuple[BatchStats, list[KeptItem]]:
        batch = batch.to(stack.model.device)
        changes = stats.of(batch)
        cache = cache_forward(stack, batch, changes.on_sublayer)
        likelihoods = choice_likelihoods(stack, cache.hidden, batch)  # (B, K)
        gold = likelihoods.gather(1, batch.gold[:, None])  # (B, 1)
        others = likelihoods.scatter(1, batch.gold[:, None], -torch.inf)  # (B, K)
        margins = (gold[:, 0] - others.amax(1)).tolist()
        return changes, [
            KeptItem(
                collate([items[index]]).to(stack.model.device),
                cache.of_item(row),
                margin,
            )
            for row, (index, margin) in enumerate(zip(batch.order.tolist(), margins, strict=True))
        ]

    kept: list[KeptItem] = []
    for changes, of_batch in workers.map(keep, batches):
        stats.add(changes)
        kept += of_batch
    return sorted(kept, key=lambda item: item.turn)

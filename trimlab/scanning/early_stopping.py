"""A scan for the choice alone: candidates that cannot be chosen stop early.

The accuracy of a candidate is at most its accuracy if it answered all items that it has not met
yet right, and its score, which falls as accuracy rises, is at least the score of that. Candidates
with the lowest scores meet more items, one or a few at a time, until those that would be chosen
have met every item. No other candidate can pass them any more: the choice is that of a whole scan,
ties included. (Up to rounding: candidates share passes in another way, and an item whose two
likeliest choices differ by less than that may be answered either way.) Several processes divide the
passes of a round.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from tqdm.auto import tqdm

from trimlab import ranks
from trimlab.cpu import inference
from trimlab.cpu.workers import Workers
from trimlab.data.batching import Batch, scan_batches
from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.evaluation.likelihoods import winning_likelihoods
from trimlab.evaluation.metrics import chosen
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.cached_items import CachedItems, cache_items
from trimlab.scanning.candidates import Candidate, Granularity, candidates
from trimlab.scanning.forward_cache import hidden_in_parts
from trimlab.scanning.rounds import plan_round
from trimlab.scanning.scan import Scan, StatisticSet, scan
from trimlab.scanning.selection import Scores
from trimlab.scanning.statistics import OutputStatistic

MAX_BYTES = 4 * 2**30  # of cached residual streams, on a CPU


@dataclass
class Standings:
    """The candidates' answers so far, and who would be chosen.

    Args:
        known: A scan without accuracy.
        n_items: Number of calibration items.
        score: A scorer whose scores never rise with accuracy.
        choose: Indices of the candidates that are chosen, given all scores.
    """

    known: Scan
    n_items: int
    score: Callable[[Scan], Scores]
    choose: Callable[[Scores], list[int]]

    def __post_init__(self):
        self.right = [0] * len(self.known.candidates)  # right answers of each candidate  # (C,)
        self.met = [0] * len(self.known.candidates)  # items that it has met  # (C,)

    def add(self, index: int, right: int, met: int = 1) -> None:
        """Adds answers of a candidate: the right ones, of the items that it has met."""
        self.right[index] += right
        self.met[index] += met

    def scan(self) -> Scan:
        """The scan so far, with an upper bound of the accuracy of candidates that stopped."""
        n = self.n_items
        bounds = [100 * ((r + n - m) / n) for r, m in zip(self.right, self.met, strict=True)]
        statistics = dict(sorted({**self.known.statistics, "accuracy": bounds}.items()))
        return replace(self.known, statistics=statistics, items=list(self.met))

    def next_group(self) -> list[int]:
        """Candidates that meet their next item together, none when the choice is known.

        The first one would be chosen now. With it go the equally good ones behind it: they will
        likely have to meet the same items.
        """
        scores = self.score(self.scan())
        front = next((i for i in self.choose(scores) if self.met[i] < self.n_items), None)
        if front is None:
            return []
        equals = [
            index
            for index, standing in enumerate(zip(self.right, self.met, strict=True))
            if standing == (self.right[front], self.met[front])
        ]
        behind = [i for i in equals if i != front and scores[i] >= scores[front]]
        return [front, *sorted(behind, key=scores.__getitem__)]


@torch.inference_mode()
def best_first_scan(
    stack: SublayerStack,
    items: Sequence[EncodedItem],
    score: Callable[[Scan], Scores],
    choose: Callable[[Scores], list[int]],
    granularity: Granularity = "sublayer",
    measures: Iterable[str] = ("accuracy", "norm"),
    max_tokens: int = 1024,
    max_bytes: int | None = None,
    step: int = 0,
    progress: bool = False,
    seed: int = 0,
) -> Scan:
    """Scans until the candidates that will be chosen are known.

    Args:
        stack: The model.
        items: Calibration items; their metric is accuracy.
        score: A scorer whose scores never rise with accuracy.
        choose: Indices of the candidates that are chosen, given all scores.
        granularity: What is dropped together, see `candidates`.
        measures: Names of the statistics. All but accuracy are computed in full; if another one
            needs passes with a candidate bypassed, a whole scan is made.
        max_tokens: Most tokens that are computed at once, see `scan`.
        max_bytes: Most bytes of cached residual streams, by default 4 GiB, or a quarter of a
            GPU's memory. If they do not fit, a whole scan is made, which works batch by batch.
        step: Number of scans before this one.
        progress: Show a bar; it ends early.
        seed: Seed of the run, for scores that draw numbers.

    Returns:
        The scan, with an upper bound in place of the accuracy of every candidate whose entry in
        `items` is less than the number of items. How far these got depends on the number of
        workers.

    Raises:
        InputError: There are no calibration items, or there is no such statistic.
    """
    if not items:
        raise InputError("a scan needs calibration items")
    statistics, batches = StatisticSet.load(measures), scan_batches(items, max_tokens)
    most = _max_bytes(stack.model.device) if max_bytes is None else max_bytes
    if set(statistics.bypass) - {"accuracy"} or _cache_bytes(stack, batches) > most:
        return scan(
            stack,
            batches,
            granularity,
            [*statistics.output, *statistics.bypass],
            step=step,
            progress=progress,
            max_tokens=max_tokens,
            seed=seed,
        )
    found = candidates(stack, granularity)
    known = Scan(found, n_blocks=len(stack.blocks), step=step, seed=seed)
    standings = Standings(known, len(items), score, choose)
    with inference(stack) as workers:
        # a frame of its own: the caches are freed before the weights are put back
        _until_chosen(
            workers,
            standings,
            items,
            batches,
            statistics.output,
            max_tokens=max_tokens,
            progress=progress,
        )
    return standings.scan()


def _until_chosen(
    workers: Workers,
    standings: Standings,
    items: Sequence[EncodedItem],
    batches: Sequence[Batch],
    output: Mapping[str, OutputStatistic],
    *,
    max_tokens: int,
    progress: bool,
) -> None:
    """Runs rounds of passes until the choice is known."""
    found = standings.known.candidates
    cached, values = cache_items(
        workers, found, items, batches, output=output, max_tokens=max_tokens
    )
    standings.known = replace(standings.known, statistics=values)
    lengths = [some.cache.hidden.shape[:2].numel() for some in cached]  # in tokens
    sizes = [len(some.batch) for some in cached]
    place = {met: index for index, met in enumerate(accumulate(sizes, initial=0))}
    total = len(found) * len(items)
    with tqdm(total=total, desc="scan", unit="item", disable=not progress, leave=False) as bar:
        while group := standings.next_group():
            start = place[standings.met[group[0]]]
            size = ranks.world_size()
            passes = plan_round(lengths[start:], group, size * max_tokens, size * workers.n)
            mine = ranks.share(passes)
            parts = [(cached[start + p.item], [found[i] for i in p.group]) for p in mine]
            answered = ranks.gathered_shares(list(workers.map(_right_without, parts)))
            for planned, right in zip(passes, answered, strict=True):
                met = sizes[start + planned.item]
                for index, count in zip(planned.group, right, strict=True):
                    standings.add(index, count, met)
                bar.update(len(planned.group) * met)


def _right_without(
    stack: SublayerStack, part: tuple[CachedItems, Sequence[Candidate]]
) -> list[int]:
    """Number of right answers to some items without each of some candidates."""
    (batch, cache), group = part
    right: list[int] = []
    positions = batch.scored_positions
    for some, hidden in hidden_in_parts(stack, cache, group, positions, len(group)):
        likelihoods = winning_likelihoods(stack, hidden, batch.repeated(len(some)))  # (C * B, K)
        answers = chosen(likelihoods).view(len(some), len(batch))  # (C, B)
        right += (answers == batch.gold).sum(1).tolist()
    return right


def _cache_bytes(stack: SublayerStack, batches: Sequence[Batch]) -> int:
    """Bytes of the residual streams before all sublayers, for all batches."""
    tokens = sum(batch.input_ids.numel() for batch in batches)
    return tokens * stack.model.config.hidden_size * len(stack) * stack.model.dtype.itemsize


def _max_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return MAX_BYTES

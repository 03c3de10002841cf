"""The scan: statistics of every candidate, without N evaluations.

Bypassing a sublayer changes nothing before it. One forward pass of the whole model caches the
residual stream before every sublayer, and each candidate starts from its own: about half the work
of N evaluations, and the same numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from trimlab import ranks
from trimlab.cpu import inference
from trimlab.data.batching import Batch
from trimlab.errors import InputError
from trimlab.evaluation.likelihoods import choice_likelihoods, head_positions, winning_likelihoods
from trimlab.evaluation.metrics import MetricName
from trimlab.memory import give_back_memory
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.candidates import Candidate, Granularity, candidates
from trimlab.scanning.division import BatchStatistics, Portion, combined, portions
from trimlab.scanning.forward_cache import (
    ForwardCache,
    blocks_behind,
    cache_forward,
    hidden_in_parts,
)
from trimlab.scanning.statistics import (
    BypassedPasses,
    BypassStatistic,
    OutputStatistic,
    load_statistic,
)
from trimlab.scanning.sublayer_stats import SublayerStats, output_statistics


@dataclass(frozen=True)
class Scan:
    """The statistics of a scan, one value per candidate.

    Attributes:
        candidates: The candidates, in the order of execution.
        statistics: The statistics that were asked for, by name; the files in `statistics`
            define them.  # (C,) each
        n_blocks: Number of blocks of the original model.
        step: Number of scans before this one.
        items: Number of calibration items that each candidate has met, where some stopped early
            (see early_stopping.py): with fewer than all, accuracy is an upper bound.  # (C,)
        seed: Seed of the run, for scores that draw numbers.
    """

    candidates: list[Candidate]
    statistics: dict[str, list[float]] = field(default_factory=dict)
    n_blocks: int = 0
    step: int = 0
    items: list[int] | None = None
    seed: int = 0

    @property
    def accuracy(self) -> list[float] | None:
        """The statistic `accuracy`, None where it was not asked for.  # (C,)"""
        return self.statistics.get("accuracy")

    @property
    def norm(self) -> list[float] | None:
        """The statistic `norm`, None where it was not asked for.  # (C,)"""
        return self.statistics.get("norm")

    @property
    def similarity(self) -> list[float] | None:
        """The statistic `similarity`, None where it was not asked for.  # (C,)"""
        return self.statistics.get("similarity")


class StatisticSet(NamedTuple):
    """Statistics by name, sorted by kind.

    Attributes:
        output: Those of the candidates' outputs.
        bypass: Those of the model with a candidate bypassed.
    """

    output: dict[str, OutputStatistic]
    bypass: dict[str, BypassStatistic]

    @classmethod
    def load(cls, names: Iterable[str], metric: MetricName = "accuracy") -> "StatisticSet":
        """Loads statistics by name.

        Raises:
            InputError: There is no such statistic.
        """
        loaded = {name: load_statistic(name, metric) for name in sorted(set(names))}
        return cls(
            {name: s for name, s in loaded.items() if isinstance(s, OutputStatistic)},
            {name: s for name, s in loaded.items() if isinstance(s, BypassStatistic)},
        )

    @property
    def choices(self) -> set[str]:
        """The choices that bypass statistics ask for; empty where none runs the LM head."""
        return {s.choices for s in self.bypass.values()} - {"none"}

    @property
    def needs_choices(self) -> bool:
        """Whether a statistic reads wrong choices, too: those of outputs read every token."""
        return bool(self.output or self.choices)


def bypassed_passes(
    stack: SublayerStack,
    cache: ForwardCache,
    batch: Batch,
    found: Sequence[Candidate],
    statistics: Iterable[BypassStatistic],
    max_tokens: int,
    on_blocks: Callable[[int], object],
) -> BypassedPasses:
    """Runs a batch without each of some candidates.

    Args:
        stack: The model.
        cache: A forward pass of the whole model over the batch.
        batch: The items.
        found: The candidates.
        statistics: What the passes are for: decides which choices are scored in full.
        max_tokens: Most tokens that are computed at once.
        on_blocks: Called with the number of blocks that have just been run.
    """
    scored_positions = batch.scored_positions  # (U,)
    positions, scored = head_positions(batch)  # (B, S)
    kept: list[Tensor] = []  # hidden states at the positions  # (C' * B, S, D) each
    together = max(1, max_tokens // batch.input_ids.numel())
    for group, hidden in hidden_in_parts(stack, cache, found, scored_positions, together):
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        kept.append(hidden[rows, positions.repeat(len(group), 1)])
        on_blocks(sum(len(blocks_behind(stack, candidate)) for candidate in group))
    hidden = torch.cat(kept)  # (C * B, S, D)
    whole = cache.hidden[torch.arange(len(batch), device=hidden.device)[:, None], positions]
    wanted, likelihoods = {statistic.choices for statistic in statistics}, None
    if wanted != {"none"}:
        # one pass of the head for all candidates: of a large vocabulary its weights take longer
        # to read than a few rows to compute
        score = choice_likelihoods if "all" in wanted else winning_likelihoods
        likelihoods = score(stack, hidden, scored.repeated(len(found)))  # (C * B, K)
        likelihoods = likelihoods.view(len(found), len(batch), -1)  # (C, B, K)
    hidden = hidden.view(len(found), *whole.shape)  # (C, B, S, D)
    return BypassedPasses(stack, scored, hidden, whole, likelihoods)


@torch.inference_mode()
def scan(
    stack: SublayerStack,
    batches: Sequence[Batch],
    granularity: Granularity = "sublayer",
    measures: Iterable[str] = ("accuracy", "norm"),
    metric: MetricName = "accuracy",
    step: int = 0,
    progress: bool = False,
    max_tokens: int = 1024,
    seed: int = 0,
) -> Scan:
    """Computes statistics of every candidate on the calibration items.

    Several processes divide the work, and all have the statistics.

    Args:
        stack: The model.
        batches: Calibration items; memory holds the cache of one batch for each worker.
        granularity: What is dropped together, see `candidates`.
        measures: Names of the statistics. Without a bypass statistic (such as `"accuracy"`) a
            scan is one forward pass.
        metric: The task's metric.
        step: Number of scans before this one.
        progress: Show a bar with the time left.
        max_tokens: Most tokens that are computed at once, in all workers together: as many
            candidates share a pass as a batch leaves room for.
        seed: Seed of the run, for scores that draw numbers.

    Raises:
        InputError: There are no calibration items, or there is no such statistic.
    """
    statistics, found = StatisticSet.load(measures, metric), candidates(stack, granularity)
    empty = Scan(found, n_blocks=len(stack.blocks), step=step, seed=seed)
    if not any(statistics):
        return empty
    if not batches:
        raise InputError("a scan needs calibration items")
    n_bypassed = len(found) if statistics.bypass else 0
    mine = portions(len(batches), n_bypassed, ranks.rank(), ranks.world_size())
    own = [len(blocks_behind(stack, candidate)) for candidate in found]
    n_blocks = sum(len(stack.blocks) + sum(own[i] for i in p.bypassed) for p in mine)
    with (
        inference(stack, lm_head=bool(n_bypassed)) as workers,
        tqdm(
            total=n_blocks,
            desc="scan",
            unit="block",
            disable=not progress,
            leave=False,
        ) as bar,
    ):
        room = max_tokens // max(1, min(workers.n, len(mine)))

        def on_blocks(count: int) -> None:
            workers.raise_if_closing()
            bar.update(count)

        def work(stack: SublayerStack, part: tuple[Batch, Portion]) -> BatchStatistics:
            batch, portion = part
            return _of_batch(
                *(stack, batch, found, portion.bypassed, statistics),
                max_tokens=room,
                on_blocks=on_blocks,
            )

        moved = [(batches[p.batch].to(stack.model.device), p) for p in mine]
        # in the order of the batches, whichever is done first: sums in floating point depend on it.
        # A GPU is not waited for before the last batch is queued
        parts = combined(list(workers.map(work, moved)), len(batches), n_bypassed)
    return replace(empty, statistics=_reduce(statistics, parts))


def _of_batch(
    stack: SublayerStack,
    batch: Batch,
    found: Sequence[Candidate],
    bypassed: Sequence[int],
    statistics: StatisticSet,
    *,
    max_tokens: int,
    on_blocks: Callable[[int], object],
) -> BatchStatistics:
    stats = SublayerStats(found, statistics.output, batch)
    cache = cache_forward(stack, batch, stats.on_sublayer)
    on_blocks(len(stack.blocks))
    if not bypassed:
        return BatchStatistics(stats.sums(), {})
    asked = statistics.bypass.values()
    some = [found[index] for index in bypassed]
    passes = bypassed_passes(
        stack, cache, batch, some, asked, max_tokens=max_tokens, on_blocks=on_blocks
    )
    values = {name: s.of_items(passes) for name, s in statistics.bypass.items()}
    del cache, passes
    if stack.model.device.type == "cpu":
        give_back_memory()  # in pieces that the next batch, of another length, may not fit in
    return BatchStatistics(stats.sums(), values)


def _reduce(statistics: StatisticSet, parts: Sequence[BatchStatistics]) -> dict[str, list[float]]:
    values = output_statistics(statistics.output, [part.output for part in parts])
    for name, statistic in statistics.bypass.items():
        of_items = torch.cat([part.bypass[name] for part in parts], dim=-1)  # (S, C, N)
        values[name] = statistic.reduce(of_items.cpu())  # the only wait for a GPU
    return dict(sorted(values.items()))

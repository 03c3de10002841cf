"""The scan: what becomes of the model when each candidate is dropped, without N evaluations.

Dropping a sublayer leaves everything before it as it was. So one plain pass keeps the residual
stream before every sublayer, and each candidate restarts from its own place: about half the work
of N evaluations, and the same numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from trimlab.cpu import inference
from trimlab.data.batching import Batch
from trimlab.errors import InputError
from trimlab.evaluation.likelihoods import choice_likelihoods, head_positions, winning_likelihoods
from trimlab.evaluation.metrics import MetricName, TaskMetric
from trimlab.memory import give_back_memory
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.candidates import Candidate, Granularity, candidates
from trimlab.scanning.forward_cache import (
    ForwardCache,
    blocks_behind,
    cache_forward,
    hidden_without,
)
from trimlab.scanning.statistics import BatchStats, Measure, SublayerStats


@dataclass(frozen=True)
class Scan:
    """What a scan measured, one value per candidate; None where it was not asked for.

    Attributes:
        candidates: The candidates, in the order of execution.
        accuracy: a_i, the score of the calibration items with the candidate bypassed, in
            [0, 100] (plain text: 100 exp(-mean token loss)).  # (C,)
        norm: Frobenius norm of what the candidate adds to the residual stream, over the real
            tokens of an item, averaged over items.  # (C,)
        similarity: Cosine of the hidden state before and after the candidate, averaged over
            the real tokens.  # (C,)
        n_blocks: Number of blocks of the original model.
        step: How many scans came before this one.
        items: Calibration items that each candidate has met, where some stopped early (see
            best_first.py): with fewer than all of them, `accuracy` is an upper bound.  # (C,)
        seed: Seed of the run, for scores that draw numbers.
    """

    candidates: list[Candidate]
    accuracy: list[float] | None = None
    norm: list[float] | None = None
    similarity: list[float] | None = None
    n_blocks: int = 0
    step: int = 0
    items: list[int] | None = None
    seed: int = 0


def likelihoods_without(
    stack: SublayerStack,
    cache: ForwardCache,
    batch: Batch,
    found: Sequence[Candidate],
    metric: MetricName,
    max_tokens: int,
    done: Callable[[int], object],
) -> Tensor:
    """Log-likelihood of every choice of a batch without each of some candidates.

    Args:
        stack: The model.
        cache: A plain pass over the batch.
        batch: The items.
        found: The candidates.
        metric: The task's metric: accuracy asks for the likeliest choice alone.
        max_tokens: Most tokens that are computed at once.
        done: Is told how many blocks have been run, as they are.

    Returns:
        Natural logarithms, or bounds that cannot win, see `winning_likelihoods`.  # (C, B, K)
    """
    scored_positions = batch.scored_positions  # (U,)
    positions, scored = head_positions(batch)  # (B, S)
    seen: list[Tensor] = []  # hidden states at the positions  # (C * B, S, D) each
    together = max(1, max_tokens // batch.input_ids.numel())
    for start in range(0, len(found), together):
        group = found[start : start + together]
        hidden = hidden_without(stack, cache, group, scored_positions)  # (C * B, T, D)
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        seen.append(hidden[rows, positions.repeat(len(group), 1)])
        done(sum(len(blocks_behind(stack, candidate)) for candidate in group))
    # one pass of the head for all candidates: of a large vocabulary its weights take longer to
    # read than a few rows to compute
    likelihoods = winning_likelihoods if metric == "accuracy" else choice_likelihoods
    found_likelihoods = likelihoods(stack, torch.cat(seen), scored.repeated(len(found)))
    return found_likelihoods.view(len(found), len(batch), -1)  # (C, B, K)


@torch.inference_mode()
def scan(
    stack: SublayerStack,
    batches: Sequence[Batch],
    granularity: Granularity = "sublayer",
    measures: Iterable[Measure] = ("accuracy", "norm"),
    metric: MetricName = "accuracy",
    step: int = 0,
    progress: bool = False,
    max_tokens: int = 1024,
    seed: int = 0,
) -> Scan:
    """Measures every candidate on the calibration items.

    Args:
        stack: The model.
        batches: Calibration items; memory holds the cache of one batch for each worker.
        granularity: What is dropped together, see `candidates`.
        measures: What to measure; without `"accuracy"` a scan is one plain pass.
        metric: The task's metric.
        step: How many scans came before this one.
        progress: Show a bar with the time left.
        max_tokens: As many candidates are computed at once as a batch leaves room for, in all
            workers together.
        seed: Seed of the run, for scores that draw numbers.

    Returns:
        The measurements.

    Raises:
        InputError: There is nothing to measure on.
    """
    measures, found = set(measures), candidates(stack, granularity)
    if not measures:  # a rule, which looks at nothing
        return Scan(found, n_blocks=len(stack.blocks), step=step, seed=seed)
    if not batches:
        raise InputError("a scan needs calibration items")
    batches = [batch.to(stack.model.device) for batch in batches]
    stats = SublayerStats(found, measures)
    accuracy = [TaskMetric(metric).to(stack.model.device) for _ in found]
    asked = found if "accuracy" in measures else []
    runs = len(stack.blocks) + sum(len(blocks_behind(stack, c)) for c in asked)  # of blocks
    with (
        inference(stack, lm_head=bool(asked)) as workers,
        tqdm(
            total=len(batches) * runs, desc="scan", unit="block", disable=not progress, leave=False
        ) as bar,
    ):
        room = max_tokens // min(workers.n, len(batches))

        def done(n_blocks: int) -> None:
            workers.check()
            bar.update(n_blocks)

        def measure(stack: SublayerStack, batch: Batch) -> tuple[BatchStats, Tensor | None]:
            of_batch = stats.of(batch)
            cache = cache_forward(stack, batch, of_batch.on_sublayer)
            done(len(stack.blocks))
            if not asked:
                return of_batch, None
            likelihoods = likelihoods_without(stack, cache, batch, asked, metric, room, done)
            del cache
            give_back_memory()  # in pieces that the next batch, of another length, may not fit in
            return of_batch, likelihoods

        # added up in the order of the batches, whichever is done first
        measured = workers.map(measure, batches)
        for batch, (of_batch, likelihoods) in zip(batches, measured, strict=True):
            stats.add(of_batch)
            if likelihoods is not None:
                for score, of_candidate in zip(accuracy, likelihoods, strict=True):
                    score.update(of_candidate, batch)
    return Scan(
        candidates=found,
        accuracy=[score.score().value for score in accuracy] if asked else None,
        norm=stats.norm,
        similarity=stats.similarity,
        n_blocks=len(stack.blocks),
        step=step,
        seed=seed,
    )

"""Scoring the candidates of a drop step: the scan that a scorer needs, and what it makes of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimlab import ranks
from trimlab.data.batching import Batch
from trimlab.data.domain import DomainData
from trimlab.evaluation.metrics import MetricName
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.records.operating_point import ScannedCandidate
from trimlab.scanning.candidates import Candidate, Granularity, candidates, name_of
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import Scan, StatisticSet, scan
from trimlab.scanning.selection import Scores, lowest, most_important
from trimlab.scorers import Scorer


@dataclass(frozen=True)
class ScoredCandidates:
    """The candidates of a drop step with their importance scores.

    Attributes:
        scan: What was measured.
        scores: One score per candidate of the scan.
        seconds: Time of the scan.
    """

    scan: Scan
    scores: Scores
    seconds: float

    def lowest(self, k: int) -> list[Candidate]:
        """The k candidates with the lowest scores; of two that share a sublayer, the lower one."""
        return [self.scan.candidates[i] for i in lowest(self.scan.candidates, self.scores, k)]

    def most_important(self, r: float) -> list[Sublayer]:
        """The share r of the sublayers with the highest scores."""
        return most_important(self.scan.candidates, self.scores, r)

    def entries(self) -> list[ScannedCandidate]:
        """The scan as it is recorded."""
        measured: dict[str, Sequence[float]] = dict(self.scan.statistics)
        if self.scan.items is not None:
            measured["items"] = self.scan.items
        return [
            ScannedCandidate(
                candidate=name_of(candidate),
                score=list(score),
                statistics={name: values[i] for name, values in measured.items()},
            )
            for i, (candidate, score) in enumerate(
                zip(self.scan.candidates, self.scores, strict=True)
            )
        ]


def score_candidates(
    scorer: Scorer,
    stack: SublayerStack,
    data: DomainData,
    granularity: Granularity,
    *,
    metric: MetricName,
    step: int,
    only_lowest: int | None = None,
    progress: bool = False,
) -> ScoredCandidates:
    """Scans the calibration items for what a scorer needs, and scores every candidate.

    Several processes divide the scan, and all have the scores of the first one.

    Args:
        scorer: The importance score.
        stack: The model.
        data: The domain, for its calibration items.
        granularity: What is dropped together.
        metric: Metric of the task.
        step: Number of scans before this one.
        only_lowest: Number of lowest candidates that must be known. Where the score allows it, the
            scan ends when they are certain, and the other scores are bounds. None: every candidate
            is measured in full.
        progress: Show a bar with the time left.

    Raises:
        InputError: There are no calibration items.
    """
    start, device = time.perf_counter(), stack.model.device
    everything = candidates(stack, granularity)
    if only_lowest is not None and _can_stop_early(scorer, metric):
        found = best_first_scan(
            stack,
            data.calibration_items(),
            scorer,
            lambda scores: lowest(everything, scores, only_lowest),
            granularity=granularity,
            measures=scorer.statistics,
            max_tokens=data.capacity(device).tokens,
            step=step,
            progress=progress,
            seed=data.seed,
        )
    else:
        found = scan(
            stack,
            _calibration_batches(scorer, data, device),
            granularity=granularity,
            measures=scorer.statistics,
            metric=metric,
            step=step,
            progress=progress,
            max_tokens=data.capacity(device).tokens,
            seed=data.seed,
        )
    return ranks.agreed(ScoredCandidates(found, scorer(found), time.perf_counter() - start))


def _calibration_batches(scorer: Scorer, data: DomainData, device: torch.device) -> list[Batch]:
    """What the statistics of a scorer read: wrong choices cost most of a scan."""
    if not scorer.statistics:
        return []
    needs_choices = StatisticSet.load(scorer.statistics).needs_choices
    return data.calibration_batches(device, only_gold=not needs_choices)


def _can_stop_early(scorer: Scorer, metric: MetricName) -> bool:
    # the bounds are those of accuracy; with another metric, the choice is that of a whole scan
    return "accuracy" in scorer.statistics and scorer.falls_with_accuracy and metric == "accuracy"

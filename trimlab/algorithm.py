"""TrimLLM's Algorithm 1 as a Lightning callback. Read it from the top, beside the paper.

    1  compute the initial score of every sublayer
    2  freeze in accordance with the sparse update ratio r
    3  while the stop rule C does not hold:
    4      train one epoch
    5      compute the score of every remaining sublayer
    6      drop the one with the minimum score
    7  return the model

Lightning runs line 4; this callback is called before it (lines 1 and 2) and after it (3, 5, 6).
Departure from the paper: line 7 comes after one more epoch, so that the returned model has healed.
An operating point is the model after a drop and its healing, before the next scan.
"""

import math
from pathlib import Path

import lightning as L

from trimlab.data.domain import DomainData
from trimlab.model.sublayers import Sublayer
from trimlab.records.operating_point import OperatingPoint
from trimlab.scanning.candidates import Granularity
from trimlab.scorers._scoring import ScoredCandidates, score_candidates
from trimlab.stop_rules import nothing_left
from trimlab.training.module import DomainLM
from trimlab.training.operating_points import DropStep, Verdict, check_finite, keep_weights
from trimlab.trim_callback import TrimCallback, domain_data, domain_module


class Trim(TrimCallback):
    """Scores and drops sublayers at the end of epochs while the model is fine-tuned."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lines 1 and 2: scores every sublayer and freezes in accordance with r."""
        module, data = domain_module(pl_module), domain_data(trainer)
        self.points.start(Path(trainer.default_root_dir), self._restored, self.provenance)
        if self.step is not None:  # from a checkpoint: the module has frozen and dropped already
            return
        scored = self.score(module, data, self.scorer.granularity or "sublayer")  # line 1
        module.freeze_all_but(scored.most_important(self.r))  # line 2
        self.step = self.drop(module, scored, k=len(scored.scores) if self.scorer.one_shot else 0)
        if self.scorer.one_shot:
            self.epochs_left = module.planned_epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One turn of the loop, after the epoch of line 4."""
        module, data = domain_module(pl_module), domain_data(trainer)
        self.epochs_left -= 1
        if self.epochs_left == 0:
            self.finished = self.reach_operating_point(trainer, module).finished
            if self.finished is None:  # line 3
                k = self.schedule.k(step=len(self.points))
                scored = self.score(module, data, self.granularity, only_lowest=k)  # line 5
                self.step = self.drop(module, scored, k)  # line 6
                enough = self.rules.efficient_enough(module.stack, self.step.latency_ms)
                self.epochs_left = (
                    self.schedule.after_last_drop if enough else self.schedule.per_drop
                )
        trainer.should_stop = self.finished is not None

    def score(
        self,
        module: DomainLM,
        data: DomainData,
        granularity: Granularity,
        only_lowest: int | None = None,
    ) -> ScoredCandidates:
        """Measures every candidate on the calibration items and scores it.

        With `scan: choice`, only as far as it takes to know the lowest.
        """
        with module.whole():
            return score_candidates(
                self.scorer,
                module.stack,
                data,
                granularity,
                metric=module.metric,
                step=len(self.points),
                only_lowest=only_lowest if self.scan == "choice" else None,
                progress=self.progress,
            )

    def drop(self, module: DomainLM, scored: ScoredCandidates, k: int) -> DropStep:
        """Drops the k candidates with the lowest scores, fewer where C_e is met before.

        The last candidate stays.
        """
        dropped: list[Sublayer] = []
        latency_ms = self.rules.measure_latency_ms(module.stack)
        for candidate in scored.lowest(k):
            if len(module.stack) <= len(candidate):
                break
            module.drop(*candidate)
            dropped += candidate
            latency_ms = self.rules.measure_latency_ms(module.stack)
            if self.rules.efficient_enough(module.stack, latency_ms):
                break
        return DropStep(scored.entries(), scored.seconds, list(map(str, dropped)), latency_ms)

    def reach_operating_point(self, trainer: L.Trainer, module: DomainLM) -> OperatingPoint:
        """Applies the stop rule C to the healed model, records it, and keeps it if C_a holds."""
        assert self.step is not None
        check_finite(module)
        fine_tuned = self.points[0].dev if self.points else module.dev.value
        refused = self.rules.too_inaccurate(module.dev.value, fine_tuned)
        finished = (
            refused
            or self.rules.efficient_enough(module.stack, self.step.latency_ms)
            or nothing_left(module.stack, self.granularity)
        )
        if refused is None:
            above = self.points[-1].layer_memory_ratio if self.points else math.inf
            keep_weights(trainer, module, self.save_at, above)
        point = self.points.add(trainer, module, self.step, Verdict(refused, finished))
        module.log("layer_memory_ratio", point.layer_memory_ratio)
        module.log("sublayers", float(len(module.stack)))
        return point

"""TrimLLM's Algorithm 1 as a Lightning callback. Read it from the top, beside the paper.

    1  compute the initial score of every sublayer
    2  freeze in accordance with the sparse update ratio r
    3  while the stop rule C does not hold:
    4      train one epoch
    5      compute the score of every remaining sublayer
    6      drop the one with the minimum score
    7  return the model

Lightning runs line 4; this callback is called before (lines 1 and 2) and after it (3, 5, 6).
Departure from the paper: line 7 comes after one more epoch, so that what is returned has healed.
An operating point is the model after a drop and its healing, before the next scan.
"""

import math
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L

from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.evaluation.speed import decode_latency_ms
from trimlab.memory import peak_memory, reset_peak_memory
from trimlab.model.authors_bypass import use_authors_bypass
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.records.rows import Row, append_row, rewind
from trimlab.scanning.candidates import Granularity, candidates, name_of
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import Scores, lowest, most_important
from trimlab.scorers import load_scorer
from trimlab.stop_rules import StopRules
from trimlab.training.module import DomainLM, TrainingDivergedError


class Trim(L.Callback):
    """Scores and drops sublayers at the end of epochs while the model is fine-tuned.

    Args:
        scorer: Importance score: a file in `trimlab/scorers`, or the dotted path of a class.
        scorer_args: Arguments of the scorer.
        r: Sparse update ratio: share of the sublayers that stay trainable, in (0, 1].
        drops_per_step: Candidates dropped per step (k). A list is a schedule: `[2, 1]` drops two
            in the first step and one in every later step.
        packable: Drop adjacent attention-MLP pairs, scored jointly, so that every operating point
            packs into fewer ordinary blocks. The granularity of `drops_per_step` is then a pair.
        target_layer_memory: Stop at this ratio of the sublayers' bytes (C_e).
        target_model_memory: Stop at this ratio of the whole model's bytes (C_e).
        target_latency_ms: Stop at this measured time per decoded token, in ms (C_e).
        max_drops: Stop after this many dropped sublayers (C_e).
        min_accuracy: Stop when dev accuracy falls below this, in [0, 100] (C_a).
        min_accuracy_share: Stop when dev accuracy falls below this share of the fine-tuned
            model's (C_a; the paper uses 0.9).
        save_at: Layer-memory ratios at which the operating point is kept and exported.
        epochs_before_first_drop: Epochs of fine-tuning at full depth.
        epochs_per_drop: Epochs after every drop step.
        epochs_after_last_drop: Epochs after the last one.
        bypass: What becomes of the residual stream where an attention is dropped. `residual`: it
            passes unchanged. `authors`: it is replaced by its normalised copy, as in TrimLLM's
            released code (an ablation: nothing is exported, models are measured in memory).
        scan: `all` measures every candidate in full. `choice` stops candidates that cannot be
            chosen any more: the same drops in less time, and bounds in the record in place of
            their scores. The initial scan, which decides what is frozen, is always whole.
        progress: Show a progress bar with the time left during scans.
    """

    def __init__(
        self,
        scorer: str = "two_step",
        scorer_args: dict[str, Any] | None = None,
        r: float = 0.25,
        drops_per_step: int | list[int] = 1,
        packable: bool = False,
        target_layer_memory: float | None = None,
        target_model_memory: float | None = None,
        target_latency_ms: float | None = None,
        max_drops: int | None = None,
        min_accuracy: float | None = None,
        min_accuracy_share: float | None = None,
        save_at: list[float] | None = None,
        epochs_before_first_drop: int = 1,
        epochs_per_drop: int = 1,
        epochs_after_last_drop: int = 1,
        bypass: Literal["residual", "authors"] = "residual",
        scan: Literal["all", "choice"] = "all",
        progress: bool = True,
    ):
        self.scorer = load_scorer(scorer, **(scorer_args or {}))
        self.rules = StopRules(
            layer_memory=target_layer_memory,
            model_memory=target_model_memory,
            latency_ms=target_latency_ms,
            max_drops=max_drops,
            min_accuracy=min_accuracy,
            min_accuracy_share=min_accuracy_share,
        )
        self.r, self.bypass, self.scan, self.progress = r, bypass, scan, progress
        self.k = [drops_per_step] if isinstance(drops_per_step, int) else list(drops_per_step)
        self.epochs_before, self.epochs_after = epochs_before_first_drop, epochs_after_last_drop
        self.epochs_per_drop = epochs_per_drop
        self.granularity: Granularity = (
            "pair" if packable else (self.scorer.granularity or "sublayer")
        )
        # a rule drops blocks, and trains as long as a score that drops k sublayers a step
        self.planned_granularity: Granularity = (
            "sublayer" if self.scorer.one_shot and not packable else self.granularity
        )
        wanted = {*(save_at or []), *([target_layer_memory] if target_layer_memory else [])}
        self.save_at = sorted(wanted, reverse=True)
        self._check_arguments(packable, save_at or [])

        self.provenance: Row = {}  # what a run adds to every row: config hash, seed, versions

        # what a checkpoint keeps of this callback
        self.points: list[Row] = []  # the operating points so far
        self.pending: Row = {}  # the scan and drop that the next operating point will report
        self.epochs_left = epochs_before_first_drop  # until the next operating point
        self.finished: str | None = None  # why trimming ended

    # ---- lines 1 and 2 ------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores every sublayer and freezes in accordance with r (lines 1 and 2)."""
        module = _domain(pl_module)
        self._clock = time.perf_counter()
        reset_peak_memory()
        if self.pending:  # restored from a checkpoint: the module has frozen and dropped already
            rewind(self._record_path(trainer), self.points)
            return
        rewind(self._record_path(trainer), [])
        found, scores = self.score(trainer, module, self.scorer.granularity or "sublayer", k=None)
        module.freeze_all_but(most_important(found.candidates, scores, self.r))
        if self.scorer.one_shot:
            self.drop(module, found, scores, k=len(found.candidates))
            self.epochs_left = module.planned_epochs

    # ---- lines 3 to 6 -------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One turn of the loop, after the epoch of line 4."""
        module = _domain(pl_module)
        self.epochs_left -= 1
        if self.epochs_left == 0:
            self.reach_operating_point(trainer, module)
            if self.finished is None:  # line 3
                k = self.k[min(len(self.points), len(self.k)) - 1]
                found, scores = self.score(trainer, module, self.granularity, k)  # line 5
                self.drop(module, found, scores, k)  # line 6
                enough = self.efficient_enough(module)
                self.epochs_left = self.epochs_after if enough else self.epochs_per_drop
        trainer.should_stop = self.finished is not None

    def score(
        self, trainer: L.Trainer, module: DomainLM, granularity: Granularity, k: int | None
    ) -> tuple[Scan, Scores]:
        """Measures every candidate on the calibration items and scores it.

        With `scan: choice`, only as far as it takes to know the k lowest.
        """
        start = time.perf_counter()
        stack, data, measures = module.stack, _data(trainer), self.scorer.measures
        step = len(self.points)
        if k is not None and self._can_stop_early(module):
            everything = candidates(stack, granularity)
            found = best_first_scan(
                stack,
                data.calibration_items(),
                self.scorer,
                lambda scores: lowest(everything, scores, k),
                granularity,
                measures,
                data.eval_tokens,
                step=step,
                progress=self.progress,
                seed=data.seed,
            )
        else:
            items = data.calibration_batches() if measures else []
            found = scan(
                stack,
                items,
                granularity,
                measures,
                module.metric,
                step,
                self.progress,
                data.eval_tokens,
                data.seed,
            )
        scores = self.scorer(found)
        self.pending = {
            "dropped": [],
            "scan": _scan_row(found, scores),
            "scan_seconds": time.perf_counter() - start,
            "latency_ms": self._latency(module),
        }
        return found, scores

    def efficient_enough(self, module: DomainLM) -> str | None:
        """C_e, with the latency as it was measured after the last drop, once."""
        return self.rules.efficient_enough(module.stack, self.pending["latency_ms"])

    def drop(self, module: DomainLM, found: Scan, scores: Scores, k: int) -> None:
        """Drops the k candidates with the lowest scores, fewer where the target is met before.

        Candidates that share a sublayer with one just dropped are passed over, and the last
        candidate stays.
        """
        dropped: list[Sublayer] = []
        for index in lowest(found.candidates, scores, k):
            candidate = found.candidates[index]
            if len(module.stack) <= len(candidate):
                break
            module.drop(*candidate)
            dropped += candidate
            self.pending["latency_ms"] = self._latency(module)
            if self.efficient_enough(module):
                break
        self.pending["dropped"] = [str(s) for s in dropped]

    def reach_operating_point(self, trainer: L.Trainer, module: DomainLM) -> None:
        """Records the healed model, keeps it on disk, and applies the stop rule C."""
        stack, dev = module.stack, module.dev
        # accuracy is an argmax and would be a number all the same
        if not all(bool(p.isfinite().all()) for p in module.parameters() if p.requires_grad):
            raise TrainingDivergedError(
                f"the weights are not finite: lower model.lr (now {module.lr:g}); "
                "the last good operating point is kept"
            )
        before = self.points[-1] if self.points else None
        now = time.perf_counter()
        point: Row = {
            "kind": "operating_point",
            "step": len(self.points),
            "epoch": trainer.current_epoch,
            "optimizer_steps": trainer.global_step,
            **self.pending,
            "history": [str(s) for s in stack.history],
            "trainable": [str(s) for s in module.trainable if s in set(stack)],
            "metric": module.metric,
            "dev_before_drop": before and before["dev"],
            "dev_before_drop_stderr": before and before["dev_stderr"],
            "dev": dev.value,
            "dev_stderr": dev.stderr,
            "dev_n": dev.n,
            "layer_memory_ratio": stack.layer_memory_ratio,
            "model_memory_ratio": stack.model_memory_ratio,
            "layer_bytes": stack.bytes_of(*stack),
            "seconds": now - self._clock,
            "peak_rss_bytes": peak_memory(),
            **self.provenance,
        }
        self._clock = now
        reset_peak_memory()
        fine_tuned = self.points[0]["dev"] if self.points else dev.value
        refused = self.rules.too_inaccurate(dev.value, fine_tuned)
        point["accepted"] = refused is None
        if refused is None:
            self._keep(trainer, module)
        self.finished = refused or self.efficient_enough(module)
        if self.finished is None and len(candidates(stack, self.granularity)) <= 1:
            self.finished = "nothing is left to drop"
        point["finished"] = self.finished
        self.points.append(point)
        append_row(self._record_path(trainer), point)
        module.log_dict(
            {"layer_memory_ratio": stack.layer_memory_ratio, "sublayers": float(len(stack))}
        )

    # ---- planning -----------------------------------------------------------------------------

    def planned_epochs(self, stack: SublayerStack) -> int:
        """Epochs until C_e holds if sublayers of average size are dropped.

        The learning-rate schedule is laid over these epochs. Without a target in bytes or drops,
        half of the candidates are planned for.
        """
        found = candidates(stack, self.planned_granularity)
        sublayers_each = len(found[0])
        each = stack.bytes_of(*stack.original) / (len(stack.original) / sublayers_each)
        everything = stack.bytes_of(*stack.original)
        needed = []
        if self.rules.layer_memory is not None:
            needed.append((1 - self.rules.layer_memory) * everything / each)
        if self.rules.model_memory is not None:
            needed.append((1 - self.rules.model_memory) * stack.model_bytes / each)
        limits = [math.ceil(max(needed) - 1e-9)] if needed else []
        if self.rules.max_drops is not None:
            limits.append(self.rules.max_drops // sublayers_each)
        drops = min(limits, default=len(found) // 2)
        steps = 0
        while drops > 0:
            drops -= self.k[min(steps, len(self.k) - 1)]
            steps += 1
        return self.epochs_before + (steps - 1) * self.epochs_per_drop + self.epochs_after

    # ---- Lightning ----------------------------------------------------------------------------

    def check(self, trainer: L.Trainer, stack: SublayerStack) -> None:
        """Refuses a trainer, a stop rule or a bypass that cannot work with this model.

        Raises:
            InputError: Several devices, scaled losses, no dev score every epoch, an impossible
                target, or a bypass that is not defined.
        """
        if trainer.world_size > 1:
            raise InputError("trimming runs on one device: set trainer.devices to 1")
        if trainer.precision == "16-mixed":  # a step's gradients are computed before it is scaled
            raise InputError("trainer.precision 16-mixed cannot work here: take bf16-mixed")
        if not trainer.limit_val_batches or trainer.check_val_every_n_epoch != 1:
            raise InputError("trimming needs the dev score of every epoch: leave validation on")
        if self.rules.latency_ms is not None:
            stack.model.to(trainer.strategy.root_device)  # type: ignore[arg-type]  # measured there
        self.rules.check(stack, self.granularity)
        if self.bypass == "authors":
            use_authors_bypass(stack)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lays out the planned epochs."""
        module = _domain(pl_module)
        self.check(trainer, module.stack)
        module.metric = _data(trainer).task.metric
        module.planned_epochs = self.planned_epochs(module.stack)
        trainer.fit_loop.max_epochs = -1  # the stop rule ends it, and the plan is only a plan

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs of this callback."""
        return {
            "points": self.points,
            "pending": self.pending,
            "epochs_left": self.epochs_left,
            "finished": self.finished,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        vars(self).update(state_dict)

    # ---- inside -------------------------------------------------------------------------------

    def _keep(self, trainer: L.Trainer, module: DomainLM) -> None:
        """Saves the weights of this operating point: always, and under each ratio it reaches."""
        folder = checkpoints_of(trainer)
        trainer.save_checkpoint(folder / "good.ckpt", weights_only=True)
        reached = module.stack.layer_memory_ratio
        above = self.points[-1]["layer_memory_ratio"] if self.points else math.inf
        for ratio in self.save_at:
            if reached <= ratio + 1e-9 < above:
                trainer.save_checkpoint(folder / f"point-{ratio:g}.ckpt", weights_only=True)

    def _can_stop_early(self, module: DomainLM) -> bool:
        stoppable = "accuracy" in self.scorer.measures and self.scorer.falls_with_accuracy
        return self.scan == "choice" and stoppable and module.metric == "accuracy"

    def _latency(self, module: DomainLM) -> float | None:
        return None if self.rules.latency_ms is None else decode_latency_ms(module.model)

    def _record_path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "record.jsonl"

    def _check_arguments(self, packable: bool, save_at: list[float]) -> None:
        if not 0 < self.r <= 1:
            raise InputError(f"trim.r must be in (0, 1], not {self.r:g}")
        if not self.k or min(self.k) < 1:
            raise InputError("trim.drops_per_step must be positive")
        if min(self.epochs_before, self.epochs_per_drop, self.epochs_after) < 1:
            raise InputError("trim.epochs_* must be at least 1")
        for ratio in save_at:
            if not 0 < ratio <= 1:
                raise InputError(f"trim.save_at takes ratios in (0, 1], not {ratio:g}")
        target = self.rules.layer_memory
        if target is not None and save_at and min(save_at) < target:
            raise InputError(
                f"trim.save_at {min(save_at):g} is never reached: the target is {target:g}"
            )
        if self.scorer.one_shot:
            if (self.rules.min_accuracy, self.rules.min_accuracy_share) != (None, None):
                raise InputError("a one-shot rule has no accuracy stop rule: it drops first")
            if packable:  # whole blocks are pairs already
                self.granularity = "block"


def checkpoints_of(trainer: L.Trainer) -> Path:
    """The folder of a run's checkpoints."""
    return Path(trainer.default_root_dir) / "checkpoints"


def _domain(module: L.LightningModule) -> DomainLM:
    if not isinstance(module, DomainLM):
        raise InputError("the Trim callback trims a trimlab.DomainLM")
    return module


def _data(trainer: L.Trainer) -> DomainData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, DomainData):
        raise InputError("the Trim callback needs a trimlab.DomainData as the data module")
    return data


def _scan_row(found: Scan, scores: Scores) -> list[Row]:
    """A scan as it stands in the record: one entry per candidate."""
    rows = [
        {"candidate": name_of(candidate), "score": list(score)}
        for candidate, score in zip(found.candidates, scores, strict=True)
    ]
    # "items" says that candidates stopped early: with fewer than all, accuracy is a bound
    for measure in ("accuracy", "norm", "similarity", "items"):
        for row, value in zip(rows, getattr(found, measure) or [], strict=False):
            row[measure] = value
    return rows

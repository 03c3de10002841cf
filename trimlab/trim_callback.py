"""What the `Trim` callback is around Algorithm 1: its options, checks and state in checkpoints."""

from typing import Any, Literal

import lightning as L

from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.model.authors_bypass import check_authors_bypass, use_authors_bypass
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject
from trimlab.scanning.candidates import Granularity
from trimlab.scorers import Scorer, load_scorer
from trimlab.stop_rules import DropSchedule, StopRules
from trimlab.training.module import DomainLM
from trimlab.training.operating_points import (
    DropStep,
    OperatingPoints,
    check_save_at,
    check_trainer,
)
from trimlab.training.strategies import Distributed


class TrimCallback(L.Callback):
    """The base of `Trim`."""

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
        """Makes the callback; nothing is checked against a model yet.

        Args:
            scorer: Importance score: a file in `trimlab/scorers`, or the dotted path of a class.
            scorer_args: Arguments of the scorer.
            r: Sparse update ratio: share of the sublayers that stay trainable, in (0, 1].
            drops_per_step: Candidates dropped per step (k). A list is a schedule: `[2, 1]` drops
                two in the first step and one in every later step.
            packable: Drop adjacent attention-MLP pairs, scored jointly, so that every operating
                point packs into fewer ordinary blocks. `drops_per_step` then counts pairs.
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
            bypass: What becomes of the residual stream where an attention is dropped. `residual`:
                it passes unchanged. `authors`: it is replaced by its normalised copy, as in
                TrimLLM's released code (an ablation: nothing is exported, models are measured in
                memory).
            scan: `all` measures every candidate in full. `choice` stops candidates that cannot be
                chosen any more: the same drops in less time, and bounds in the record in place of
                their scores. The initial scan, which decides what is frozen, is always whole.
            progress: Show a progress bar with the time left during scans.

        Raises:
            InputError: A value is out of range, or two options contradict each other.
        """
        self.scorer = load_scorer(scorer, **(scorer_args or {}))
        self.rules = StopRules(
            layer_memory=target_layer_memory,
            model_memory=target_model_memory,
            latency_ms=target_latency_ms,
            max_drops=max_drops,
            min_accuracy=min_accuracy,
            min_accuracy_share=min_accuracy_share,
        )
        self.schedule = DropSchedule(
            (drops_per_step,) if isinstance(drops_per_step, int) else tuple(drops_per_step),
            before_first_drop=epochs_before_first_drop,
            per_drop=epochs_per_drop,
            after_last_drop=epochs_after_last_drop,
        )
        self.r, self.bypass, self.scan, self.progress = r, bypass, scan, progress
        self.granularity: Granularity
        self.planned_granularity: Granularity
        self.granularity, self.planned_granularity = granularities(self.scorer, packable)
        wanted = {*(save_at or []), *([target_layer_memory] if target_layer_memory else [])}
        self.save_at = sorted(wanted, reverse=True)
        check_save_at(save_at or [], target_layer_memory)
        if not 0 < r <= 1:
            raise InputError(f"trim.r must be in (0, 1], not {r:g}")
        if self.scorer.one_shot and (min_accuracy, min_accuracy_share) != (None, None):
            raise InputError("a one-shot rule has no accuracy stop rule: it drops first")
        self.provenance: JsonObject = {}  # fields of every row: config hash, seed, versions
        self._checked: SublayerStack | None = None
        self._restored: list[JsonObject] = []

        # what a checkpoint keeps of this callback
        self.points = OperatingPoints()
        self.step: DropStep | None = None  # the scan and drop before the next operating point
        self.epochs_left = epochs_before_first_drop  # until the next operating point
        self.finished: str | None = None  # why trimming ended

    def check(self, trainer: L.Trainer, stack: SublayerStack) -> None:
        """Refuses a trainer, a stop rule or a bypass that cannot work with this model, once.

        Raises:
            InputError: Scaled losses, no dev score every epoch, an impossible target, a bypass that
                is not defined, or an option that does not work with sharded weights.
        """
        if self._checked is stack:
            return
        check_trainer(trainer)
        if isinstance(trainer.strategy, Distributed) and trainer.strategy.lockstep:
            if self.rules.latency_ms is not None:  # measured in one process
                raise InputError("trim.target_latency_ms needs trainer.strategy ddp")
            if self.bypass != "residual":  # it keeps a part of what is dropped
                raise InputError(f"trim.bypass {self.bypass} needs trainer.strategy ddp")
        self.rules.check(stack, self.granularity)
        if self.bypass == "authors":
            check_authors_bypass(stack)
        self._checked = stack

    def planned_epochs(self, stack: SublayerStack) -> int:
        """Epochs until C_e holds if sublayers of average size are dropped."""
        return self.schedule.planned_epochs(self.rules, stack, self.planned_granularity)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Checks what `check` has not, and lays out the planned epochs."""
        module = domain_module(pl_module)
        if self.rules.latency_ms is not None:
            module.model.to(trainer.strategy.root_device)  # type: ignore[arg-type]  # measured there
        self.check(trainer, module.stack)
        if self.bypass == "authors":
            use_authors_bypass(module.stack)
        module.metric = domain_data(trainer).task.metric
        module.planned_epochs = self.planned_epochs(module.stack)
        trainer.fit_loop.max_epochs = -1  # the stop rule ends it, and the plan is only a plan

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs of this callback."""
        return {
            "points": self.points.rows(),
            "step": self.step and self.step.to_row(),
            "epochs_left": self.epochs_left,
            "finished": self.finished,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._restored = state_dict["points"]
        step = state_dict.get("step", state_dict.get("pending"))  # its name in earlier versions
        self.step = DropStep.from_row(step) if step else None
        self.epochs_left, self.finished = state_dict["epochs_left"], state_dict["finished"]


def granularities(scorer: Scorer, packable: bool) -> tuple[Granularity, Granularity]:
    """What drops together, and what the planned number of epochs counts.

    A one-shot rule drops whole blocks, which are pairs already, and trains for as long as a score
    that drops k candidates a step.
    """
    by_score: Granularity = "pair" if packable else scorer.granularity or "sublayer"
    if not scorer.one_shot:
        return by_score, by_score
    return ("block", "pair") if packable else (by_score, "sublayer")


def domain_module(module: L.LightningModule) -> DomainLM:
    """The module that a `Trim` callback trims."""
    if not isinstance(module, DomainLM):
        raise InputError("the Trim callback trims a trimlab.DomainLM")
    return module


def domain_data(trainer: L.Trainer) -> DomainData:
    """The data module of a trainer."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, DomainData):
        raise InputError("the Trim callback needs a trimlab.DomainData as the data module")
    return data

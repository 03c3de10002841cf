"""The options of a run that decide what it needs."""

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch

from trimlab.algorithm import Trim
from trimlab.data.domain import DomainData
from trimlab.data.task import MetricName, load_task
from trimlab.errors import InputError
from trimlab.planning.passes import PassSettings
from trimlab.records.rows import JsonObject
from trimlab.training.devices import check_precision_name
from trimlab.training.losses import Loss, check_teacher, load_loss
from trimlab.training.module import DomainLM
from trimlab.training.steps import limited_batches, steps_per_epoch
from trimlab.training.strategies import load_strategy

# types of the weights and, under mixed precision, of the products
DTYPES: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "32-true": (torch.float32, None),
    "bf16-true": (torch.bfloat16, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "64-true": (torch.float64, None),
}
SHORT = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # of Lightning


@dataclass(frozen=True)
class RunSettings:
    """The options of a run that decide what it needs, under the names that a config has for them.

    Attributes:
        trim: Algorithm 1.
        r: `trim.r`.
        train_tokens: `model.train_tokens`.
        checkpointing: `model.activation_checkpointing`.
        optimizer: `model.optimizer`.
        lora_rank: `model.lora_rank`.
        train_embeddings: `model.train_embeddings`.
        batch_size: `data.batch_size`.
        eval_tokens: `data.eval_tokens`.
        max_length: `data.max_length`.
        seed: Seed of the order of the rows.
        precision: `trainer.precision`, as a trainer names it.
        train_batches: `trainer.limit_train_batches`, or None.
        accumulated: `trainer.accumulate_grad_batches`.
        full_depth: `run.full_depth`.
        trim_from: `run.trim_from`.
        fine_tuning_epochs: `run.fine_tuning_epochs`.
        loss: `model.loss`.
        metric: The task's metric.
        processes: Processes of the run, on all machines: one for each device.
        strategy: How they share the work: a file in `trimlab/training/strategies`.
    """

    trim: Trim
    r: float
    train_tokens: int
    checkpointing: bool
    optimizer: str
    lora_rank: int
    train_embeddings: bool
    batch_size: int
    eval_tokens: int
    max_length: int
    seed: int
    precision: str
    train_batches: float | None
    accumulated: int
    full_depth: bool
    trim_from: str
    fine_tuning_epochs: int
    loss: str
    metric: MetricName
    processes: int = 1
    strategy: str = "ddp"

    @classmethod
    def from_config(cls, config: JsonObject) -> "RunSettings":
        """Reads a resolved config of `trimlab fit`; what it leaves out has its default.

        Raises:
            InputError: A value cannot work.
        """
        model = _defaults(DomainLM) | config.get("model", {})
        data = _defaults(DomainData) | config.get("data", {})
        run = {"full_depth": True, "trim_from": "base", "fine_tuning_epochs": 3}
        run |= config.get("run", {})
        check_teacher(model["loss"], run["trim_from"])
        trainer = config.get("trainer") or {}
        precision = str(trainer.get("precision") or "32-true")
        precision = SHORT.get(precision, precision)
        check_precision_name(precision)
        trim = Trim(**config.get("trim", {}))
        return cls(
            trim=trim,
            r=trim.r,
            train_tokens=model["train_tokens"],
            checkpointing=model.get("activation_checkpointing", False),
            optimizer=model.get("optimizer", "adamw"),
            lora_rank=model.get("lora_rank", 0),
            train_embeddings=model["train_embeddings"],
            batch_size=data["batch_size"],
            eval_tokens=data["eval_tokens"],
            max_length=data["max_length"],
            seed=config.get("seed_everything") or 0,
            precision=precision,
            train_batches=trainer.get("limit_train_batches"),
            accumulated=trainer.get("accumulate_grad_batches") or 1,
            full_depth=run["full_depth"],
            trim_from=run["trim_from"],
            fine_tuning_epochs=run["fine_tuning_epochs"],
            loss=model["loss"],
            metric=load_task(data["task"]).scored_by(data["metric"]).metric,
            processes=_devices(trainer) * int(trainer.get("num_nodes") or 1),
            strategy=_strategy(trainer),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights while they are trained."""
        return DTYPES[self.precision][0]

    @property
    def autocast(self) -> torch.dtype | None:
        """Type of the products under mixed precision, or None."""
        return DTYPES[self.precision][1]

    @property
    def training_passes(self) -> PassSettings:
        """How training steps are computed."""
        return PassSettings(self.dtype, self.autocast, self.checkpointing, self.lora_rank)

    @property
    def scan_passes(self) -> PassSettings:
        """How scans are computed, between epochs."""
        return PassSettings(self.dtype)

    @property
    def fine_tuned_first(self) -> bool:
        """Whether the whole model is fine-tuned before it is trimmed."""
        return self.trim_from == "fine_tuned"

    @property
    def teacher(self) -> bool:
        """Whether the fine-tuned model teaches the one that is trimmed."""
        return self.fine_tuned_first and load_loss(self.loss).needs_teacher

    @property
    def training_loss(self) -> Loss:
        """The loss of training: that of the answers until there is a teacher that it needs."""
        loss = load_loss(self.loss)
        return load_loss("answers") if loss.needs_teacher and not self.teacher else loss

    @property
    def without_teacher(self) -> "RunSettings":
        """The same before there is a teacher."""
        return self.changed(loss="answers") if self.teacher else self

    def batches_of(self, batches: int) -> int:
        """Batches that an epoch takes of so many, at least one."""
        return max(1, limited_batches(batches, self.train_batches))

    def steps_of(self, batches: int) -> int:
        """Optimizer steps of an epoch of so many batches."""
        return steps_per_epoch(batches, self.train_batches, self.accumulated)

    def changed(self, **options: Any) -> "RunSettings":
        """The same run with other options."""
        return replace(self, **options)


def _devices(trainer: JsonObject) -> int:
    """Number of devices on each machine.

    Raises:
        InputError: It depends on the machine.
    """
    devices = trainer.get("devices") or 1
    if isinstance(devices, str) and "," in devices:
        devices = [name for name in devices.split(",") if name.strip()]
    if isinstance(devices, list):
        return len(devices)
    if not str(devices).isdigit():
        raise InputError(f"trainer.devices {devices} depends on the machine: give a number")
    return int(devices)


def _strategy(trainer: JsonObject) -> str:
    strategy = trainer.get("strategy") or "auto"
    return "ddp" if strategy == "auto" else load_strategy(strategy).name


def _defaults(cls: type) -> JsonObject:
    """The default arguments of a class."""
    return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

"""A whole run to half of the layer memory, against full fine-tuning for as many epochs."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L

from trimlab.algorithm import Trim
from trimlab.bench._benchmark import Bench, Measurement
from trimlab.bench.train import PADDING, own_epoch, trainer_epoch
from trimlab.data.domain import DomainData
from trimlab.records.rows import read_rows
from trimlab.training.module import DomainLM


@dataclass(frozen=True)
class _Outcome:
    """What a run came to."""

    epochs: int
    scan_seconds: float
    layer_memory_ratio: float
    trainable: list[str]


class RunBench(Bench):
    """Runs Algorithm 1: the initial scan, and epochs and scans until the target is met.

    The peers take as many epochs over the same rows and train every parameter: `trainer` and
    `trainer-max`, the Hugging Face Trainer (see `trimlab bench train`), or `own`, our own full
    fine-tuning. One epoch of theirs is timed, and scaled: all of their epochs cost the same.

    Args:
        rows: Training rows per epoch.
        calibration_rows: Calibration items.
        r: Sparse update ratio.
        drops_per_step: Sublayers dropped per step.
        target: Layer-memory ratio to reach.
        scan: `all` scores every candidate in full; `choice` makes the same drops in less time, see
            `trimlab fit --trim.scan`.
        batch_size: Rows per optimizer step.
        micro_batch_size: Rows that the Trainer computes at once.
    """

    peers = ("trainer", "trainer-max", "own")

    def __init__(
        self,
        rows: int = 400,
        calibration_rows: int = 50,
        r: float = 0.25,
        drops_per_step: int = 3,
        target: float = 0.5,
        scan: Literal["all", "choice"] = "all",
        batch_size: int = 16,
        micro_batch_size: int = 4,
        **common: Any,
    ):
        super().__init__(**common)
        self.n, self.calibration_rows, self.r = rows, calibration_rows, r
        self.k, self.target = drops_per_step, target
        self.scan: Literal["all", "choice"] = scan
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    def measure(self) -> Iterator[Measurement]:
        """Epochs, scans and dev scores; exports and test scores come after a run."""
        turns, peer_turns = self.race(self._trim, self._peer())
        outcome: _Outcome = turns.result
        yield Measurement(
            f"a run to {self.target:g} of the layer memory",
            turns,
            peer_turns,
            self.against,
            factor=outcome.epochs,
            same=vars(outcome),
            question={
                "rows": self.n,
                "calibration_rows": self.calibration_rows,
                "r": self.r,
                "drops_per_step": self.k,
                "target": self.target,
                "scan": self.scan,
                "batch_size": self.batch_size,
            },
            settings={"peer_micro_batch_size": self.micro_batch_size},
        )

    def _data(self) -> DomainData:
        return self.domain(self.n, self.calibration_rows, dev=16, batch_size=self.batch_size)

    def _trim(self) -> Any:
        module, data = DomainLM(self.base), self._data()
        algorithm: list[L.Callback] = [
            Trim(
                r=self.r,
                drops_per_step=self.k,
                target_layer_memory=self.target,
                scan=self.scan,
            )
        ]

        def run() -> _Outcome:
            with tempfile.TemporaryDirectory() as folder:
                trainer = L.Trainer(
                    max_epochs=-1,
                    devices=1,
                    default_root_dir=folder,
                    callbacks=algorithm,
                    logger=False,
                    num_sanity_val_steps=0,
                    enable_checkpointing=False,
                    enable_model_summary=False,
                )
                trainer.fit(module, datamodule=data)
                points = read_rows(Path(folder) / "record.jsonl")
            return _Outcome(
                epochs=points[-1]["epoch"] + 1,
                scan_seconds=sum(point["scan_seconds"] for point in points),
                layer_memory_ratio=points[-1]["layer_memory_ratio"],
                trainable=points[0]["trainable"],
            )

        return run

    def _peer(self) -> Any:
        if self.against is None:
            return None
        if self.against == "own":
            return lambda: own_epoch(self.base, self._data(), 1.0)
        padding = PADDING[self.against]
        return lambda: trainer_epoch(
            self.base, self._data(), padding, self.batch_size, self.micro_batch_size
        )

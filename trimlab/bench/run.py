"""A whole run to half of the layer memory, against full fine-tuning for as many epochs."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from trimlab.algorithm import Trim
from trimlab.bench._benchmark import Benchmark
from trimlab.bench._device import rows_at_once, tokens_at_once
from trimlab.bench._epochs import EPOCH_PEERS, full_fine_tuning
from trimlab.bench._lightning import BenchmarkLM, lightning_trainer
from trimlab.bench._result import BenchmarkResult
from trimlab.data.domain import DomainData
from trimlab.records.rows import read_rows


@dataclass(frozen=True)
class _Outcome:
    """Outcome of a run of Algorithm 1."""

    epochs: int
    scan_seconds: float
    layer_memory_ratio: float
    trainable: list[str]


class RunBenchmark(Benchmark):
    """Runs Algorithm 1: the initial scan, then epochs and scans until the target is met.

    The peers train every parameter for as many epochs over the same rows: `trainer` and
    `trainer-max`, the Hugging Face Trainer (see `trimlab bench train`), or `own`, our own full
    fine-tuning. One epoch of theirs is timed and scaled, since all of their epochs cost the same.

    Args:
        rows: Training rows per epoch.
        calibration_rows: Calibration items.
        r: Sparse update ratio.
        drops_per_step: Sublayers dropped per step.
        target: Layer-memory ratio to reach.
        scan: `all` scores every candidate in full; `choice` makes the same drops in less time, see
            `trimlab fit --trim.scan`.
        batch_size: Rows per optimizer step.
        micro_batch_size: Rows per forward pass of the Trainer; by default 4 on a CPU and
            `batch_size` on a GPU.
        train_tokens: Most tokens that trimlab, and the peer `own`, compute at once in training;
            by default 1,024 on a CPU and 4,096 on a GPU.
        eval_tokens: The same in scans; by default 1,024 on a CPU, and what the memory of a GPU
            allows.
    """

    peers = EPOCH_PEERS
    tiny: ClassVar[dict[str, Any]] = {
        "rows": 8,
        "calibration_rows": 6,
        "batch_size": 4,
        "scan": "choice",
    }

    def __init__(
        self,
        rows: int = 400,
        calibration_rows: int = 50,
        r: float = 0.25,
        drops_per_step: int = 3,
        target: float = 0.5,
        scan: Literal["all", "choice"] = "all",
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        train_tokens: int | None = None,
        eval_tokens: int | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        self.rows, self.calibration_rows, self.r = rows, calibration_rows, r
        self.drops_per_step, self.target = drops_per_step, target
        self.scan: Literal["all", "choice"] = scan
        self.batch_size = batch_size
        self.micro_batch_size = rows_at_once(micro_batch_size, batch_size, self.device)
        self.train_tokens = tokens_at_once(train_tokens, self.device, training=True)
        self.eval_tokens = tokens_at_once(eval_tokens, self.device)

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times epochs, scans and dev evaluations, without exports and test evaluations."""

        def data() -> DomainData:
            return self.data.domain(
                self.model.tokenizer,
                self.rows,
                self.calibration_rows,
                dev=16,
                batch_size=self.batch_size,
                eval_tokens=self.eval_tokens,
            )

        ours, theirs = self.time(
            lambda: self._trim(data()),
            full_fine_tuning(
                self.against, self.model, data, self.micro_batch_size, self.train_tokens
            ),
        )
        outcome: _Outcome = ours.result
        yield BenchmarkResult(
            what=f"a run to {self.target:g} of the layer memory",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            factor=outcome.epochs,
            same=asdict(outcome),
            workload={
                "rows": self.rows,
                "calibration_rows": self.calibration_rows,
                "r": self.r,
                "drops_per_step": self.drops_per_step,
                "target": self.target,
                "scan": self.scan,
                "batch_size": self.batch_size,
            },
            settings={
                "peer_micro_batch_size": self.micro_batch_size,
                "train_tokens": self.train_tokens,
                "eval_tokens": self.eval_tokens,
            },
        )

    def _trim(self, data: DomainData) -> Callable[[], _Outcome]:
        """A run of Algorithm 1, ready to start."""
        module = BenchmarkLM(self.model, train_tokens=self.train_tokens)
        algorithm = Trim(
            r=self.r,
            drops_per_step=self.drops_per_step,
            target_layer_memory=self.target,
            scan=self.scan,
        )

        def run() -> _Outcome:
            with tempfile.TemporaryDirectory() as folder:
                trainer = lightning_trainer(
                    self.model,
                    max_epochs=-1,
                    default_root_dir=folder,
                    callbacks=[algorithm],
                    num_sanity_val_steps=0,
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

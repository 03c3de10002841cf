"""The operating points of a run: measured after healing, recorded, and kept on disk."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightning as L

from trimlab import ranks
from trimlab.errors import InputError
from trimlab.memory import peak_memory, reset_peak_memory
from trimlab.records.operating_point import OperatingPoint, ScannedCandidate
from trimlab.records.rows import JsonObject, append_row, rewind
from trimlab.training.checkpoints import checkpoint_folder
from trimlab.training.devices import check_precision
from trimlab.training.module import DomainLM, TrainingDivergedError


@dataclass(frozen=True)
class DropStep:
    """A scan and what was dropped after it; the next operating point reports both.

    Attributes:
        scan: The scan, one entry per candidate.
        scan_seconds: Time of the scan.
        dropped: Names of the dropped sublayers, in order; none after the initial scan.
        latency_ms: Milliseconds per decoded token afterwards, where that is a target.
    """

    scan: list[ScannedCandidate]
    scan_seconds: float
    dropped: list[str]
    latency_ms: float | None

    def to_row(self) -> JsonObject:
        """The step as a checkpoint keeps it."""
        return vars(self) | {"scan": [entry.to_row() for entry in self.scan]}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads what `to_row` gave."""
        scan = [ScannedCandidate.from_row(entry) for entry in row["scan"]]
        return cls(**{**row, "scan": scan})


@dataclass(frozen=True)
class Verdict:
    """What the stop rules say of an operating point.

    Attributes:
        refused: Why C_a refuses it, or None.
        finished: Why trimming ends here, or None.
    """

    refused: str | None
    finished: str | None


class OperatingPoints(Sequence[OperatingPoint]):
    """The operating points so far, in memory and in `record.jsonl`."""

    def __init__(self) -> None:
        self._provenance: JsonObject = {}
        self._points: list[OperatingPoint] = []
        self._since = time.perf_counter()

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: Any) -> Any:
        return self._points[index]

    def start(self, folder: Path, rows: Sequence[JsonObject], provenance: JsonObject) -> None:
        """Takes the record back to the rows of a checkpoint, and starts the clock.

        Args:
            folder: The run folder.
            rows: The rows of the checkpoint that the run resumes from; none in a new run.
            provenance: Fields of every row: config hash, seed, versions.
        """
        self._provenance = provenance
        self._points = [OperatingPoint.from_row(row) for row in rows]
        ranks.on_first(lambda: rewind(_record(folder), rows))
        self._restart_clock()

    def rows(self) -> list[JsonObject]:
        """The rows as they are written."""
        kind = {"kind": OperatingPoint.kind}
        return [kind | point.to_row() | self._provenance for point in self._points]

    def add(
        self, trainer: L.Trainer, module: DomainLM, step: DropStep, verdict: Verdict
    ) -> OperatingPoint:
        """Measures the healed model and records it.

        Args:
            trainer: Its trainer, for epoch, optimizer steps and the run folder.
            module: The model.
            step: The scan and drop before it healed.
            verdict: What the stop rules say of it.
        """
        stack, dev = module.stack, module.dev
        before = self._points[-1] if self._points else None
        point = OperatingPoint(
            step=len(self._points),
            epoch=trainer.current_epoch,
            optimizer_steps=trainer.global_step,
            **vars(step),
            history=[str(s) for s in stack.history],
            trainable=[str(s) for s in module.trainable if s in set(stack)],
            metric=module.metric,
            dev=dev.value,
            dev_stderr=dev.stderr,
            dev_n=dev.n,
            dev_before_drop=before and before.dev,
            dev_before_drop_stderr=before and before.dev_stderr,
            layer_memory_ratio=stack.layer_memory_ratio,
            model_memory_ratio=stack.model_memory_ratio,
            layer_bytes=stack.bytes_of(*stack),
            accepted=verdict.refused is None,
            finished=verdict.finished,
            seconds=time.perf_counter() - self._since,
            peak_rss_bytes=peak_memory(),
        )
        point = ranks.agreed(point)  # with the time and memory of the first process
        self._points.append(point)
        record, row = _record(Path(trainer.default_root_dir)), self.rows()[-1]
        ranks.on_first(lambda: append_row(record, row))
        self._restart_clock()
        return point

    def _restart_clock(self) -> None:
        self._since = time.perf_counter()
        reset_peak_memory()


def check_trainer(trainer: L.Trainer) -> None:
    """Refuses a trainer under which a model cannot be trimmed.

    Raises:
        InputError: A precision that cannot work or that the device lacks, or no dev score every
            epoch.
    """
    check_precision(trainer)
    if not trainer.limit_val_batches or trainer.check_val_every_n_epoch != 1:
        raise InputError("trimming needs the dev score of every epoch: leave validation on")


def check_save_at(ratios: Sequence[float], target: float | None) -> None:
    """Refuses layer-memory ratios at which no operating point can be kept.

    Raises:
        InputError: A ratio is out of range, or below the target at which trimming ends.
    """
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise InputError(f"trim.save_at takes ratios in (0, 1], not {ratio:g}")
    if target is not None and ratios and min(ratios) < target:
        raise InputError(f"trim.save_at {min(ratios):g} is never reached: the target is {target:g}")


def check_finite(module: DomainLM) -> None:
    """Refuses a model whose trained weights are not finite: an argmax would be a number anyway.

    Raises:
        TrainingDivergedError: A weight is infinite or not a number.
    """
    if not all(ranks.gathered(module.all_finite())):
        raise TrainingDivergedError(
            f"the weights are not finite: lower model.lr (now {module.lr:g}); "
            "the last good operating point is kept"
        )


def keep_weights(
    trainer: L.Trainer, module: DomainLM, ratios: Sequence[float], above: float
) -> None:
    """Saves the weights of an operating point: as the last good one, and under each ratio reached.

    Args:
        trainer: The trainer.
        module: The model.
        ratios: Layer-memory ratios at which a point is to be kept.
        above: Layer-memory ratio of the point before; infinite for the first.
    """
    folder = checkpoint_folder(trainer)
    trainer.save_checkpoint(folder / "good.ckpt", weights_only=True)
    reached = module.stack.layer_memory_ratio
    for ratio in ratios:
        if reached <= ratio + 1e-9 < above:
            trainer.save_checkpoint(folder / f"point-{ratio:g}.ckpt", weights_only=True)


def _record(folder: Path) -> Path:
    return folder / "record.jsonl"

"""Operating points as models on disk, each measured as it was reloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from trimlab.errors import InputError
from trimlab.evaluation.speed import decode_speeds
from trimlab.export._packing import packable_blocks
from trimlab.export.hf import load_export, save_packed
from trimlab.model.loading import load_model
from trimlab.model.notes import note_once
from trimlab.model.sizes import dense_sizes, stored_sizes
from trimlab.model.sublayers import SublayerStack
from trimlab.records.model_result import ModelResult
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.rows import JsonObject
from trimlab.runs.checks import export_dtype
from trimlab.runs.folder import RunFolder
from trimlab.runs.measure import Tester
from trimlab.training.checkpoints import restore
from trimlab.training.module import DomainLM


@dataclass(frozen=True)
class SavedPoint:
    """An operating point that becomes a model.

    Attributes:
        name: Name of its folder.
        checkpoint: File name of its checkpoint.
        point: The operating point.
        asked_ratio: The layer-memory ratio that it was asked for; None for the final model where
            no ratio led to it.
    """

    name: str
    checkpoint: str
    point: OperatingPoint
    asked_ratio: float | None


def saved_points(folder: RunFolder, save_at: Sequence[float]) -> list[SavedPoint]:
    """The operating points to export: the first one at each ratio or below, and the final one.

    Points that the stop rule refused are left out.

    Args:
        folder: The run folder.
        save_at: Layer-memory ratios, in descending order.

    Returns:
        The points in order; the last one is the final model.

    Raises:
        InputError: The stop rule accepted none.
    """
    record = folder.points()
    points = [point for point in record if point.accepted]
    if not points:
        reason = record[-1].finished if record else "its record.jsonl is empty"
        raise InputError(f"{folder.path} has no operating point: {reason}")
    saved = []
    for ratio in save_at:
        reached = [point for point in points if point.layer_memory_ratio <= ratio + 1e-9]
        if reached:
            saved.append(SavedPoint(f"{ratio:g}", f"point-{ratio:g}.ckpt", reached[0], ratio))
    final = points[-1]
    if not saved or saved[-1].point is not final:
        name = f"{final.layer_memory_ratio:.3g}"
        if name in {other.name for other in saved}:  # a ratio that an earlier point has reached
            name = f"{final.layer_memory_ratio:.9g}-final"
        saved.append(SavedPoint(name, "good.ckpt", final, None))
    return saved


class Exporter:
    """Exports operating points, and measures the reloaded exports.

    With another bypass than the residual one (an ablation), models are not exported and are
    measured in memory.

    Args:
        module: The module of the run; others are made from its arguments.
        folder: The run folder.
        tester: Tests the models.
    """

    def __init__(self, module: DomainLM, folder: RunFolder, tester: Tester):
        self.module, self.folder, self.tester = module, folder, tester
        self.dtype = export_dtype(module.base, tester.options)
        self._full: PreTrainedModel | None = None  # loaded once, for the first comparison of speed

    def export(self, saved: SavedPoint) -> ModelResult:
        """Exports an operating point and measures it."""
        stack, about = self._restored_and_written(saved)
        # the module that was restored is gone by now, which is as large as each of these
        test = self.tester.test(stack, f"trimmed to {saved.name}")
        if self.tester.options.speed:
            about |= self._speeds(stack.model)
        return ModelResult.from_test(test, **about)

    def _restored_and_written(self, saved: SavedPoint) -> tuple[SublayerStack, JsonObject]:
        """The model to measure, and the fields of its result that are known before."""
        module = self.module.fresh()
        restore(module, self.folder.checkpoints / saved.checkpoint)
        stack = module.stack
        about: dict[str, Any] = {
            "layer_memory_ratio": stack.layer_memory_ratio,
            "model_memory_ratio": stack.model_memory_ratio,
            "dropped": saved.point.history,
            "optimizer_steps": saved.point.optimizer_steps,
            "asked_ratio": saved.asked_ratio,
        }
        if stack.bypass_rule != "residual":
            return stack, about
        folder = self.folder.models / saved.name
        export = save_packed(stack, self.tester.data.tokenizer, folder, self._dtype_for(stack))
        stored, dense = stored_sizes(export.folder), dense_sizes(stack)
        about |= {
            "stored_layer_memory_ratio": stored.layers / dense.layers,
            "stored_model_memory_ratio": stored.model / dense.model,
            "dtype": export.dtype,
            "folder": str(folder),
            "tier": export.tier,
            "blocks": export.blocks,
            "bytes_on_disk": export.bytes_on_disk,
            "logit_difference": export.logit_difference,
        }
        if export.tier == "T2":
            ratio = saved.asked_ratio or stack.layer_memory_ratio
            about["packable_blocks"] = packable_blocks(stack, ratio)
        return SublayerStack(load_export(export.folder, getattr(torch, export.dtype))), about

    def _dtype_for(self, stack: SublayerStack) -> torch.dtype:
        """The type of an export: the one asked for, or float32 if the weights do not fit in it."""
        largest = max(float(weight.detach().abs().max()) for weight in stack.model.parameters())
        if largest <= torch.finfo(self.dtype).max:
            return self.dtype
        note_once(f"weights up to {largest:.3g} do not fit in {self.dtype}: written as float32")
        return torch.float32

    def _speeds(self, trimmed: PreTrainedModel) -> JsonObject:
        """Decoding speed, in turns with the untrimmed model in the same type."""
        if self._full is None or self._full.dtype != trimmed.dtype:
            self._full = load_model(self.module.base, dtype=trimmed.dtype)[0]
            self._full.to(self.tester.device)  # type: ignore[arg-type]
        speeds = decode_speeds({"untrimmed_": self._full, "": trimmed})
        row = {f"{name}tokens_per_second": s.tokens_per_second for name, s in speeds.items()}
        return row | {f"{name}tokens_per_second_spread": s.spread for name, s in speeds.items()}

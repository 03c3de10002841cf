"""Shared by GPTQ and AWQ, which gptqmodel implements."""

import os
import shutil
import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.errors import InputError
from trimlab.model.device import Placement, find_placement
from trimlab.model.loading import model_folder
from trimlab.model.sublayers import SublayerStack


class FourBits(Baseline):
    """Rounds weights to a few bits, in groups with a scale of their own.

    Args:
        bits: Bits of a weight.
        group_size: Weights along a row that share a scale.
    """

    library = "gptqmodel"
    method: ClassVar[str]
    rows: ClassVar[int] = 1  # the number of outputs of a layer must be a multiple of it

    def __init__(self, bits: int = 4, group_size: int = 128):
        self.bits, self.group_size = bits, group_size

    def check(self, stack: SublayerStack) -> None:
        """Refuses layers that cannot be cut into groups, on which the library exits."""
        for block in stack.blocks:
            for layer in block.modules():
                if isinstance(layer, nn.Linear) and (
                    layer.in_features % self.group_size or layer.out_features % self.rows
                ):
                    outputs = f" and of {self.rows} outputs" if self.rows > 1 else ""
                    raise InputError(
                        f"{self.title} needs layers with a multiple of {self.group_size} inputs "
                        f"(group_size){outputs}, and this model has one with {layer.in_features} "
                        f"inputs and {layer.out_features} outputs"
                    )

    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the packed weights with their scales."""
        examples: list[Any] = [
            {"input_ids": list(text), "attention_mask": [1] * len(text)} for text in texts
        ]
        source = model_folder(model).resolve()
        # the library writes logs into the working directory
        with _gptqmodel() as library, chdir(folder):
            config = self.config(library)
            config.device = str(placement.device)
            quantiser = library.GPTQModel.load(str(source), config)
            kernels = self._kernels(library, placement)
            quantiser.quantize(
                examples or None, batch_size=1, calibration_data_min_length=1, backend=kernels
            )
            quantiser.save(str(folder))
            # a thread of the library still writes its log, and ends the process if that is gone
            library.DEVICE_THREAD_POOL.wait()
        shutil.rmtree(folder / "logs", ignore_errors=True)

    def load(self, folder: Path, placement: Placement | None = None) -> PreTrainedModel:
        """Loads the packed weights for the kernels that run there."""
        placement = placement or find_placement()
        with _gptqmodel() as library:
            kernels, device = self._kernels(library, placement), str(placement.device)
            return library.GPTQModel.load(str(folder), device=device, backend=kernels).model

    @abstractmethod
    def config(self, library: Any) -> Any:
        """The library's config of the method."""

    def _kernels(self, library: Any, placement: Placement) -> Any:
        """The choice of gptqmodel on a GPU, kernels in PyTorch elsewhere."""
        if placement.device.type == "cuda":
            return library.BACKEND.AUTO
        return library.BACKEND[f"{self.method.upper()}_TORCH"]


@contextmanager
def _gptqmodel() -> Iterator[Any]:
    """The library, with its output on standard error and only its warnings."""
    # the library needs two workers, and allows itself one on fewer than three cores
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, (os.cpu_count() or 1) // 2)))
    with redirect_stdout(sys.stderr):
        import gptqmodel
        from logbar import LogBar

        LogBar.shared().setLevel("WARNING")
        yield gptqmodel

"""Our training in benchmarks: the module of a benchmark's model, and a Trainer that only trains."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._model import BenchmarkModel
from trimlab.training.module import DomainLM

PRECISIONS: dict[torch.dtype, Any] = {
    torch.float32: "32-true",
    torch.bfloat16: "bf16-true",
    torch.float16: "16-true",  # `check_precision` says why not
}


class BenchmarkLM(DomainLM):
    """A `DomainLM` of a benchmark's model.

    Args:
        made: Makes the model.
        **options: Options of `DomainLM`.
    """

    def __init__(self, made: BenchmarkModel, **options: Any):
        self._made = made
        super().__init__(base=made.name, **options)

    def load_base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The benchmark's model."""
        return self._made.load()


def lightning_trainer(model: BenchmarkModel, **options: Any) -> L.Trainer:
    """A Trainer on the device and in the precision of a model, without a log.

    Args:
        model: The model.
        **options: Further options of `L.Trainer`.
    """
    gpu = model.device.type == "cuda"
    # Lightning wants the number of a GPU
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else model.device
    return L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        strategy=_StayOnDevice(device),
        precision=PRECISIONS[model.dtype],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )


class _StayOnDevice(SingleDeviceStrategy):
    """Leaves the model where it is at the end, and does not copy it to the CPU.

    The copy takes as long as several steps, and an epoch does not need it.
    """

    def teardown(self) -> None:
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

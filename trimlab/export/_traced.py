"""What formats share whose files hold a graph, traced by Transformers' exporters.

The trimmed model itself is traced, so that the graph has the remaining sublayers alone: nothing
stands for a dropped one, and the KV cache has the remaining attentions.
"""

import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.engines._engine import load_engine
from trimlab.errors import InputError
from trimlab.export._format import ExportFormat
from trimlab.export._packing import Tier, pack, packed_config
from trimlab.model.sublayers import SublayerStack, evaluating


class TracedFormat(ExportFormat):
    """A graph with a KV cache. Batches have one text, of any length."""

    @property
    def dtypes(self) -> list[str]:
        """See `ExportFormat.dtypes`."""
        return ["float32", "float16", *self.compressions]

    def check(self, stack: SublayerStack) -> None:
        """Also refuses a model without any attention, and a missing engine."""
        super().check(stack)
        load_engine(self.engine).check()
        if all(sublayer.kind == "mlp" for sublayer in stack):
            raise InputError("the model has no attention left, and a graph needs one for its cache")

    def saved_dtype(self, stack: SublayerStack, dtype: str | None) -> torch.dtype:
        """See `ExportFormat.saved_dtype`; other types become float32."""
        found = super().saved_dtype(stack, dtype)
        return found if found == torch.float16 else torch.float32

    def tier(self, stack: SublayerStack) -> tuple[Tier, int]:
        """See `ExportFormat.tier`; no sublayer is dead."""
        tier, blocks = super().tier(stack)
        return "T1" if tier == "T1" else "T3", blocks

    def size(self, stack: SublayerStack) -> int:
        """See `ExportFormat.size`."""
        return stack.model.num_parameters()

    def start(self, folder: Path) -> list[str]:
        """See `ExportFormat.start`."""
        return [f"trimlab chat {folder}"]

    def save(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        dtype: torch.dtype,
    ) -> None:
        """Writes graph, weights, config and tokenizer, see `ExportFormat.save`."""
        model = stack.model
        with quiet(), evaluating(model), torch.no_grad():
            self.trace(model, folder, dtype)
        config = packed_config(stack, pack(stack))
        config.dtype = dtype
        config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    @abstractmethod
    def trace(self, model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
        """Writes the graph and its weights.

        Args:
            model: The trimmed model.
            folder: The folder.
            dtype: The type of the written weights.
        """


def traced_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Inputs to trace a model with: three tokens after four that are in the KV cache.

    `logits_to_keep` are the positions whose logits are wanted: of a prompt, the last one.
    """
    ids = torch.arange(7, device=model.device)[None]  # (1, T)
    cache = DynamicCache()  # whole, also for sliding attention: its mask leaves out what is old
    model(input_ids=ids[:, :4], past_key_values=cache, use_cache=True)
    return {
        "input_ids": ids[:, 4:],
        "attention_mask": torch.ones_like(ids),
        "past_key_values": cache,
        "logits_to_keep": torch.arange(3, device=model.device),
    }


@contextmanager
def weights_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Has a model's parameters in another type for the duration of a `with` block.

    Buffers stay as they are: frequencies of positions would lose what 16 bits lack.

    Args:
        model: The model.
        dtype: The type.
    """
    kept = {parameter: parameter.data for parameter in model.parameters()}
    try:
        for parameter in kept:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data


@contextmanager
def quiet() -> Iterator[None]:
    """Silences progress on standard output and warnings, as of dimensions that have one value."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""The interface of export formats.

A format is one file in this folder that defines one subclass of `ExportFormat`; the file's name is
the format's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.errors import InputError
from trimlab.export._packing import Tier
from trimlab.export._rounding import rounded_weights
from trimlab.model.sublayers import SublayerStack, evaluating
from trimlab.plugins import plugin_class, plugin_module, plugin_names

FORMATS = "trimlab.export"

# logits of token ids, as an exported model computes them  # (1, T) -> (1, T, V)
LogitsOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Export:
    """A written model.

    Attributes:
        folder: The model's folder.
        tier: T1 (kept sublayers only) or T2 (dead sublayers fill gaps).
        blocks: Number of blocks.
        bytes_on_disk: Size of the folder.
        logit_difference: Largest difference of the reloaded model's logits from the trimmed
            model's, divided by the largest logit. Both are computed in the type that the trimmed
            model has in memory, with weights as they were written.
        dtype: The type of the written weights.
        reloaded: The model as it was reloaded from the folder, in the written type, for
            measurements.
    """

    folder: Path
    tier: Tier
    blocks: int
    bytes_on_disk: int
    logit_difference: float
    dtype: torch.dtype
    reloaded: PreTrainedModel = field(repr=False)


class ExportFormat(ABC):
    """One way to write a trimmed model so that other programs run it."""

    def check(self, stack: SublayerStack) -> None:
        """Refuses a model that the format cannot hold. Changes and writes nothing.

        Subclasses extend it.

        Raises:
            InputError: A dropped sublayer is not the residual identity (an ablation), so that no
                ordinary model computes the same; or the format does not support this model.
        """
        if stack.bypass_rule != "residual":
            raise InputError(
                f"a model with trim.bypass {stack.bypass_rule} can't be exported: no ordinary "
                "model computes it; trim with trim.bypass residual"
            )

    @abstractmethod
    def write(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: str | Path,
        dtype: torch.dtype | None = None,
    ) -> Export:
        """Writes the trimmed model, once it has been reloaded and its logits agree.

        Args:
            stack: The trimmed model, which stays as it is.
            tokenizer: Its tokenizer, saved beside it.
            folder: The folder to write. An earlier export there is replaced.
            dtype: The type of the written weights; None for the type that they have in memory.

        Returns:
            The export.

        Raises:
            InputError: `check` refuses the model, the disk is full, or the place holds something
                else than a model.
            RuntimeError: The reloaded model's logits differ.
        """


def format_names() -> list[str]:
    """Names of the export formats."""
    return plugin_names(FORMATS)


def load_format(name: str) -> ExportFormat:
    """Makes an export format.

    Args:
        name: A file in this folder, such as `hf`.

    Raises:
        InputError: There is no such format.
    """
    return plugin_class(plugin_module(FORMATS, name, "export format"), ExportFormat)()


MOST_ALLOWED = 0.25  # difference of logits in any type, as a share of the largest


@torch.inference_mode()
def compare_logits(
    trimmed: PreTrainedModel, *exported: LogitsOf, dtype: torch.dtype | None = None
) -> float:
    """Compares logits of an exported model with those of the trimmed model.

    Args:
        trimmed: The model that was exported.
        *exported: Ways to run the export, each from token ids on the trimmed model's device to
            logits there.  # (1, T) -> (1, T, V)
        dtype: The type that the exported weights were rounded to, if any.

    Returns:
        The largest difference, divided by the trimmed model's largest logit.

    Raises:
        RuntimeError: It is more than rounding can explain.
    """
    length = min(48, trimmed.config.max_position_embeddings)
    ids = torch.arange(length, device=trimmed.device)[None] * 7 % trimmed.config.vocab_size
    with evaluating(trimmed), rounded_weights(trimmed, dtype or trimmed.dtype):
        expected = trimmed(ids, use_cache=False).logits  # (1, T, V)
    scale = expected.abs().max()
    difference = max(float((expected - run(ids)).abs().max() / scale) for run in exported)
    # a wrong weight, mask or position is off by whole units; a thousand roundings of bfloat16 are
    # larger than that
    allowed = min(1000 * torch.finfo(trimmed.dtype).eps, MOST_ALLOWED)
    if not difference <= allowed:
        raise RuntimeError(
            f"the reloaded export's logits differ by {difference:.2g} of the largest one"
        )
    return difference

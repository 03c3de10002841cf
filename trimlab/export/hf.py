"""Hugging Face folder of the model's own class (tiers T1 and T2), with fewer blocks."""

from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.engines.transformers import TransformersModel
from trimlab.export._format import Export, ExportFormat
from trimlab.export._packing import pack, packed_config, packed_state
from trimlab.model.sublayers import SublayerStack


class HuggingFace(ExportFormat):
    """The remaining sublayers as a stock checkpoint with fewer blocks."""

    engine = "transformers"

    def save(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        dtype: torch.dtype,
    ) -> None:
        """Writes config, weights and tokenizer, see `ExportFormat.save`."""
        model, blocks = stack.model, pack(stack)
        config, state = packed_config(stack, blocks), packed_state(stack, blocks)
        config.architectures = [type(model).__name__]
        config.dtype = dtype
        config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_torch_state_dict({n: w.to(dtype).contiguous() for n, w in state.items()}, folder)

    def load(self, folder: Path, trimmed: PreTrainedModel) -> TransformersModel:
        """Loads the folder where the trimmed model is, see `ExportFormat.load`."""
        model = load_export(folder, trimmed.dtype)
        return TransformersModel(model.to(trimmed.device))  # type: ignore[arg-type]

    def start(self, folder: Path) -> list[str]:
        """See `ExportFormat.start`."""
        return [f"transformers chat {folder}", f"vllm serve {folder}"]


def save_packed(
    stack: SublayerStack,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    dtype: torch.dtype | None = None,
) -> Export:
    """Writes the trimmed model as a stock checkpoint of its own model class.

    The folder appears under its name once the model has been reloaded from it and its logits
    agree. An earlier export there is replaced.

    Args:
        stack: The trimmed model.
        tokenizer: Its tokenizer, saved beside it.
        folder: The folder to write.
        dtype: The type of the written weights; None for the type that they have in memory.

    Returns:
        The export.

    Raises:
        InputError: No ordinary model computes the same (an ablation), the disk is full, or the
            place holds something else than a model.
        RuntimeError: The reloaded model's logits differ.
    """
    return HuggingFace().write(stack, tokenizer, folder, dtype)


def load_export(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Loads an exported folder with transformers alone, in evaluation mode on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return model.eval()

"""Hugging Face folder of the model's own class (tiers T1 and T2), with fewer blocks."""

from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.export._format import Export, ExportFormat, compare_logits
from trimlab.export._packing import pack, packed_config, packed_state, tier_of
from trimlab.files import atomic_folder
from trimlab.model.sublayers import SublayerStack


class HuggingFace(ExportFormat):
    """The remaining sublayers as a stock checkpoint with fewer blocks."""

    def write(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: str | Path,
        dtype: torch.dtype | None = None,
    ) -> Export:
        """Writes config, weights and tokenizer, see `ExportFormat.write`."""
        self.check(stack)
        folder, model = Path(folder).absolute(), stack.model
        dtype = dtype or model.dtype
        blocks = pack(stack)
        config, state = packed_config(stack, blocks), packed_state(stack, blocks)
        config.architectures = [type(model).__name__]
        config.dtype = dtype
        state = {name: weight.to(dtype).contiguous() for name, weight in state.items()}
        with atomic_folder(folder, sum(weight.nbytes for weight in state.values())) as part:
            config.save_pretrained(part)
            if model.generation_config is not None:
                model.generation_config.save_pretrained(part)
            tokenizer.save_pretrained(part)
            save_torch_state_dict(state, part)
            reloaded = load_export(part, model.dtype)
            difference = _compare(model, reloaded, dtype)
        if dtype != model.dtype:
            del state, reloaded  # each is as large as what comes
            # not `.to(dtype)`: that rounds buffers, too, such as the frequencies of positions
            reloaded = load_export(folder, dtype)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return Export(
            folder=folder,
            tier=tier_of(blocks),
            blocks=len(blocks),
            bytes_on_disk=size,
            logit_difference=difference,
            dtype=dtype,
            reloaded=reloaded,
        )


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


def _compare(trimmed: PreTrainedModel, reloaded: PreTrainedModel, dtype: torch.dtype) -> float:
    """Largest relative difference of logits, with and without a KV cache."""
    reloaded = reloaded.to(trimmed.device)  # type: ignore[arg-type]

    def cached(ids: Tensor) -> Tensor:
        half = ids.shape[1] // 2
        first = reloaded(ids[:, :half], use_cache=True)
        second = reloaded(ids[:, half:], past_key_values=first.past_key_values, use_cache=True)
        return torch.cat([first.logits, second.logits], dim=1)  # (1, T, V)

    def whole(ids: Tensor) -> Tensor:
        return reloaded(ids, use_cache=False).logits

    return compare_logits(trimmed, whole, cached, dtype=dtype)

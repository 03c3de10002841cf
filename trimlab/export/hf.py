"""A trimmed model as a stock Hugging Face folder (tiers T1 and T2), checked before it counts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.errors import InputError, disk_is_full
from trimlab.export._packing import Tier, pack, packed_config, packed_state, tier_of
from trimlab.files import is_replaceable
from trimlab.model.sublayers import SublayerStack, evaluating


@dataclass(frozen=True)
class Export:
    """A written model.

    Attributes:
        folder: Where it is.
        tier: T1 (nothing but kept sublayers) or T2 (dead ones fill gaps).
        blocks: Number of blocks.
        bytes_on_disk: Size of the folder.
        logit_difference: Largest difference of the reloaded model's logits from the trimmed
            model's, over the largest logit.
    """

    folder: Path
    tier: Tier
    blocks: int
    bytes_on_disk: int
    logit_difference: float


def save_packed(
    stack: SublayerStack,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    card: str | None = None,
) -> Export:
    """Writes the trimmed model as a stock checkpoint of its own model class.

    The folder appears under its name only after the model has been reloaded from it and its
    logits agree; an earlier export in its place is replaced.

    Args:
        stack: The trimmed model.
        tokenizer: Its tokenizer, saved beside it.
        folder: Where to write.
        card: Text of the model card (README.md).

    Returns:
        What was written.

    Raises:
        InputError: The disk is full, or something else stands in the place.
        RuntimeError: The reloaded model's logits differ.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not is_replaceable(folder):
        raise InputError(f"{folder} is not empty and holds no model; choose another folder")
    blocks = pack(stack)
    state = packed_state(stack, blocks)
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    needed = sum(t.numel() * t.element_size() for t in state.values())
    if shutil.disk_usage(parent).free < 1.05 * needed:
        raise InputError(f"{parent} has no room for {needed / 1e9:.1f} GB; free some space")
    temporary = parent / f".{folder.name}.part"  # also clears what a killed process left
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        config = packed_config(stack, blocks)
        config.architectures = [type(stack.model).__name__]
        config.dtype = stack.model.dtype
        config.save_pretrained(temporary)
        if stack.model.generation_config is not None:
            stack.model.generation_config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_torch_state_dict({k: v.contiguous() for k, v in state.items()}, temporary)
        difference = _compare(stack.model, load_export(temporary, stack.model.dtype))
        if card is not None:
            (temporary / "README.md").write_text(card)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        if disk_is_full(error):
            raise InputError(f"the disk of {parent} is full; free some space") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Export(folder, tier_of(blocks), len(blocks), size, difference)


def load_export(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Loads a stock folder as anybody would, without trimlab."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return model.eval()


@torch.inference_mode()
def _compare(trimmed: PreTrainedModel, reloaded: PreTrainedModel) -> float:
    """Largest relative difference of logits, with and without a KV cache."""
    reloaded = reloaded.to(trimmed.device)  # type: ignore[arg-type]
    length = min(48, trimmed.config.max_position_embeddings)
    ids = torch.arange(length, device=trimmed.device)[None] * 7 % trimmed.config.vocab_size
    with evaluating(trimmed):
        wanted = trimmed(ids, use_cache=False).logits  # (1, T, V)
    half = length // 2
    first = reloaded(ids[:, :half], use_cache=True)
    second = reloaded(ids[:, half:], past_key_values=first.past_key_values, use_cache=True)
    cached = torch.cat([first.logits, second.logits], dim=1)
    plain = reloaded(ids, use_cache=False).logits
    scale = wanted.abs().max()
    difference = float(max((wanted - plain).abs().max(), (wanted - cached).abs().max()) / scale)
    # rounding only: a wrong weight, mask or position is off by whole units
    allowed = 1000 * torch.finfo(trimmed.dtype).eps
    if not difference <= allowed:
        raise RuntimeError(
            f"the reloaded export's logits differ by {difference:.2g} of the largest one"
        )
    return difference

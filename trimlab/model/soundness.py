"""Checks of a model at loading, for faults that would show late, or as wrong numbers."""

import tempfile
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from trimlab.errors import InputError, one_line

# without influence on greedy decoding, and refused beside it when a config is saved
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p")
SAMPLING += ("epsilon_cutoff", "eta_cutoff")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_finite(model: PreTrainedModel, name: str) -> None:
    """Refuses weights that are infinite or not a number.

    Args:
        model: The model.
        name: The name that it is loaded by, for the message.

    Raises:
        InputError: A weight is not finite; the message names the first tensor.
    """
    faulty = [key for key, weight in model.named_parameters() if not _is_finite(weight.detach())]
    if faulty:
        weight = model.get_parameter(faulty[0])
        count = int((~weight.isfinite()).sum())
        more = f" (and {len(faulty) - 1} more tensors)" if len(faulty) > 1 else ""
        raise InputError(
            f"{name} has weights that are not finite: {count} of {weight.numel()} entries of "
            f"{faulty[0]} are infinite or not a number{more}; the training or conversion that "
            "wrote them went wrong: take an earlier checkpoint or write them in another type"
        )


def _is_finite(weight: Tensor) -> bool:
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        return True  # packed
    # the sum is fast and tells all, unless it overflows
    return bool(weight.sum().isfinite()) or bool(weight.isfinite().all())


def check_trainable(config: PreTrainedConfig, name: str) -> None:
    """Refuses a quantised model, whose weights cannot be trained or packed.

    Args:
        config: The model's config.
        name: The name that it is loaded by, for the message.

    Raises:
        InputError: The model is quantised.
    """
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return
    about: Any = quantised if isinstance(quantised, dict) else quantised.to_dict()
    raise InputError(
        f"{name} is quantised ({about.get('quant_method', 'quantization_config')}), and quantised "
        "weights cannot be fine-tuned: give the model that it was made from, and quantise the "
        "trimmed model afterwards"
    )


def make_saveable(model: PreTrainedModel) -> str | None:
    """Mends what Transformers loads and would refuse to save: generation settings.

    Settings of sampling are removed where the model decodes greedily, which ignores them.

    Args:
        model: The model, changed in place.

    Returns:
        What was mended, or None.

    Raises:
        InputError: The model's config cannot be saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.config.save_pretrained(folder)
        except Exception as error:
            raise InputError(
                f"config.json of {model.config.name_or_path} can be read but not saved, so that no "
                f"trimmed model could be written: {one_line(error)}; correct it"
            ) from error
        generation = model.generation_config
        if generation is None or (fault := _fault(generation, folder)) is None:
            return None
        model.generation_config, done = _mended(generation, folder)
        return f"{done} ({fault})"


def _mended(generation: GenerationConfig, folder: str) -> tuple[GenerationConfig, str]:
    if not generation.do_sample:
        unused = [name for name in SAMPLING if getattr(generation, name, None) is not None]
        for name in unused:
            setattr(generation, name, None)
        if _fault(generation, folder) is None:
            return generation, f"{', '.join(unused)} removed from generation_config.json"
    ids = {name: getattr(generation, name) for name in TOKEN_IDS}
    return GenerationConfig(**ids), "all but the token ids removed from generation_config.json"


def _fault(generation: GenerationConfig, folder: str) -> str | None:
    """Why a generation config cannot be saved, or None."""
    try:
        generation.validate(strict=True)
        generation.save_pretrained(folder)
    except (ValueError, TypeError) as error:
        return one_line(error)
    return None

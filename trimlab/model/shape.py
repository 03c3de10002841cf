"""Models by shape alone: the config of a known architecture, with random weights on request."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trimlab.plugins import hyphenated_module, hyphenated_names

SHAPES = "trimlab.model.shapes"


def shape_names() -> list[str]:
    """Names of the shapes."""
    return hyphenated_names(SHAPES)


def shape_config(name: str) -> PreTrainedConfig:
    """The config of a shape, a new copy.

    Args:
        name: One of `shape_names()`.

    Raises:
        InputError: There is no such shape.
    """
    found = hyphenated_module(SHAPES, name, "shape").CONFIG
    return type(found).from_dict(found.to_dict())


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a config on the meta device: shapes and names of its weights, and no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).eval()


def random_model(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> PreTrainedModel:
    """A model with random weights, made on its device and in its type.

    Args:
        config: The config of the model.
        dtype: Type of the weights.
        device: Device of the weights: nothing larger than one of them passes through another.
        seed: Seed of the weights.
    """
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    finally:
        torch.set_default_dtype(before)

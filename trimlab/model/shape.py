"""Models by shape alone: the config of a known architecture, with random weights on request."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from trimlab.plugins import hyphenated_module, hyphenated_names

SHAPES = "trimlab.model.shapes"
NOISE = 1_048_573  # the largest prime below 2**20


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

    The weights are one block of normal noise, again and again: a CPU needs minutes to draw those of
    LLaMA-7B. The length of the block is prime, so that no two rows of a matrix are the same, and no
    two matrices: OpenVINO stores equal ones once, and reads less.

    Args:
        config: The config of the model.
        dtype: Type of the weights.
        device: Device of the weights: nothing larger than one of them passes through another.
        seed: Seed of the weights.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    source = torch.Generator(device).manual_seed(seed)
    noise = torch.randn(NOISE, generator=source, device=device, dtype=torch.float32)
    noise = (noise * getattr(config, "initializer_range", 0.02)).to(dtype)  # (NOISE,)
    start = 0
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # of norms, or a bias
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            _fill(parameter.data, noise.roll(-start))
            start = (start + parameter.numel()) % len(noise)
    return model


def _fill(weights: Tensor, noise: Tensor) -> None:
    """Repeats the noise over all entries of some weights, in place."""
    for part in weights.view(-1).split(len(noise)):
        part.copy_(noise[: len(part)])

"""How much a device computes at once."""

from typing import NamedTuple

import torch

EVAL_TOKENS = 1024  # of a CPU: larger batches only pad more
MEMORY_PER_TOKEN = 2**21  # bytes of a GPU for each token: a pass of LLaMA-7B takes a tenth of it
LEAST_ON_GPU, MOST_ON_GPU = 4096, 65536  # tokens; more do not make a GPU faster
TRAINING_ON_GPU = 4096  # tokens, with activations kept for a backward pass


class Capacity(NamedTuple):
    """How much a device computes at once.

    Attributes:
        tokens: Most tokens of a forward pass, padding included.
        pass_tokens: Cost of a pass apart from its tokens, in tokens: on a GPU, launching kernels.
    """

    tokens: int = EVAL_TOKENS
    pass_tokens: int = 32


def capacity(device: torch.device, tokens: int = EVAL_TOKENS) -> Capacity:
    """How much a device computes at once.

    On a GPU it follows from the memory of the card, not from what is free at the moment: a
    repetition has the same batches.

    Args:
        device: The device.
        tokens: Most tokens of a pass. On a GPU, `EVAL_TOKENS` stands for 4,096 to 65,536, a power
            of two that grows with its memory (32,768 with 80 GB).
    """
    if device.type != "cuda":
        return Capacity(tokens)
    return gpu_capacity(torch.cuda.get_device_properties(device).total_memory, tokens)


def gpu_capacity(memory: int, tokens: int = EVAL_TOKENS) -> Capacity:
    """How much a GPU computes at once.

    Args:
        memory: Bytes of its memory.
        tokens: As for `capacity`.
    """
    if tokens == EVAL_TOKENS:
        fitting = memory // MEMORY_PER_TOKEN
        tokens = 2 ** (min(max(fitting, LEAST_ON_GPU), MOST_ON_GPU).bit_length() - 1)
    return Capacity(tokens, pass_tokens=512)


def training_tokens(device: torch.device) -> int:
    """Most tokens of a training step's forward pass that fit most devices of a kind."""
    return TRAINING_ON_GPU if device.type == "cuda" else EVAL_TOKENS

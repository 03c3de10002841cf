"""What fits on the device of a benchmark."""

from typing import Literal

import torch

from trimlab.data.capacity import capacity, training_tokens
from trimlab.errors import InputError
from trimlab.memory import free_memory

DeviceName = Literal["auto", "cpu", "cuda"]  # both Trainers take the current GPU


def check_weights_fit(needed: int, device: torch.device) -> None:
    """Refuses weights that the free memory of a device cannot hold.

    Args:
        needed: Bytes of the weights.
        device: The device.

    Raises:
        InputError: They do not fit.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise InputError(
            f"the weights take {needed / 1e9:.1f} GB and {device.type} has {free / 1e9:.1f} GB "
            "free: --blocks shortens a shape, --dtype bfloat16 halves float32"
        )


def tokens_at_once(asked: int | None, device: torch.device, training: bool = False) -> int:
    """Most tokens, padding included, that one forward pass computes.

    Args:
        asked: The number asked for; by default that of the device.
        device: The device.
        training: Whether activations are kept for a backward pass.
    """
    if asked is not None:
        return asked
    return training_tokens(device) if training else capacity(device).tokens


def rows_at_once(asked: int | None, batch_size: int, device: torch.device) -> int:
    """Rows per forward pass of a Trainer.

    Args:
        asked: The number asked for; by default few on a CPU and a whole batch on a GPU.
        batch_size: Rows per optimizer step.
        device: The device.
    """
    if asked is not None:
        return asked
    return min(4, batch_size) if device.type == "cpu" else batch_size

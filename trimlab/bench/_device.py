"""Device and number type of a benchmark: what is there, and what fits."""

from pathlib import Path
from typing import Literal

import torch

from trimlab.errors import InputError

DeviceName = Literal["cpu", "cuda"]
DtypeName = Literal["float32", "bfloat16"]


def choose_device(name: DeviceName | None) -> torch.device:
    """The device of a benchmark.

    Args:
        name: Its name; by default a GPU if there is one, as for both Trainers.

    Raises:
        InputError: There is no such device.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("--device cuda: torch finds no CUDA device here; take --device cpu")
    if name == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(name: DtypeName | None, device: torch.device) -> torch.dtype:
    """The type of the weights.

    Args:
        name: Its name; by default bfloat16 on GPUs that have it, float32 elsewhere.
        device: Device of the weights.

    Raises:
        InputError: The device lacks the type.
    """
    gpu = device.type == "cuda"
    has_bfloat16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if name is None:
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if gpu and name == "bfloat16" and not has_bfloat16:
        raise InputError(
            f"--dtype bfloat16: {torch.cuda.get_device_name(device)} lacks it; take float32"
        )
    return getattr(torch, name)


def check_fits(needed: int, device: torch.device) -> None:
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


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")), None)


def tokens_at_once(asked: int | None, device: torch.device, training: bool = False) -> int:
    """Most tokens, padding included, that one forward pass computes.

    Args:
        asked: The number asked for; by default few on a CPU, where padding costs more than a pass,
            and many on a GPU.
        device: The device.
        training: Whether activations are kept for a backward pass.
    """
    if asked is not None:
        return asked
    if device.type == "cpu":
        return 1024
    return 4096 if training else 16_384


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

"""Devices and number types by name, checked before a model is loaded."""

from typing import Literal, NamedTuple, get_args

import torch

from trimlab.errors import InputError

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class Placement(NamedTuple):
    """Where a model computes, and in which type.

    Attributes:
        device: The device.
        dtype: The type of its weights in memory.
    """

    device: torch.device
    dtype: torch.dtype


CPU = Placement(torch.device("cpu"), torch.float32)


def find_placement(device: str = "auto", dtype: str = "auto") -> Placement:
    """A device and a type by name.

    Args:
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, or `cuda:1` for the second GPU.
        dtype: `auto` is bfloat16 on a GPU that has it, else float32; or the name of a type.

    Raises:
        InputError: The device is not there, or lacks the type.
    """
    found = find_device(device)
    return Placement(found, find_dtype(dtype, found))


def find_device(name: str = "auto") -> torch.device:
    """A device by name, as `find_placement` takes it.

    Raises:
        InputError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"there is no device {name!r}: write auto, cpu, cuda or cuda:1") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise InputError(f"device {name}: trimlab computes on cpu or cuda")
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "no GPU can be used" if built else "this PyTorch is built without CUDA"
        raise InputError(f"device {name}: {why} ({torch.__version__}); take cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise InputError(f"there is no device {name}: this machine has {there}")
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """A type by name, as `find_placement` takes it.

    Raises:
        InputError: There is no such type, or the device lacks it.
    """
    if name not in get_args(DtypeName):
        known = ", ".join(get_args(DtypeName))
        raise InputError(f"dtype must be one of {known}, not {name!r}")
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if name == "bfloat16" and device.type == "cuda" and not has_bfloat16(device):
        raise InputError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16: take float16 or float32"
        )
    return getattr(torch, name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device is a GPU with units for bfloat16."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

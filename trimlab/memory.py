"""Memory of this process: its peak, and what is free but not given back."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Starts a new measurement of the peak (where the system allows it, as Linux does)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Peak memory since the last reset, in bytes: a GPU's if it was used, else resident memory."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back_memory() -> None:
    """Returns free pages to the system, where the C library can.

    It keeps what was freed, in pieces that the next allocation may not fit in and that threads with
    an arena of their own cannot use at all.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)

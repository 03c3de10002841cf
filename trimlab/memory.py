"""Memory: what a device has free, the peak of this process, and returning freed pages."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Resets the peak of `peak_memory`; of resident memory on Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Peak memory since the last reset, in bytes: of the GPU if it was used, else resident."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back_memory() -> None:
    """Returns freed pages to the system, with the GNU C library; elsewhere it does nothing.

    The library keeps freed memory in pieces that may be too small for the next allocation, and that
    threads with an arena of their own cannot use.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def release_memory() -> None:
    """Frees what nothing refers to any more, and returns it to the system and to the GPU."""
    gc.collect()
    give_back_memory()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def gib(count: float) -> str:
    """Bytes for people, in powers of two as the memory of devices is given."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def resident_memory() -> int:
    """Resident memory of this process in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def main_memory() -> int:
    """Bytes of this machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")), None)

"""Fits on this machine: one, or several side by side."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence

from trimlab.errors import InputError
from trimlab.runs.launchers._launcher import (
    Ended,
    Fit,
    Job,
    Launcher,
    kill_process,
    start_process,
)


class Local(Launcher):
    """This machine; the fits share its CPU cores and its GPUs.

    Each of N fits has one N-th of the cores as threads, and sees one GPU. With more fits than
    GPUs, several share one.
    """

    def __init__(self, jobs: int | None = None):
        self.at_once = self.max_queued = self.per_machine = 1 if jobs is None else jobs
        cores = _cores()
        if not 1 <= self.at_once <= cores:
            raise InputError(
                f"--jobs {self.at_once} is not possible on this machine; "
                f"give 1 to {cores}, its number of CPU cores"
            )
        self._slots: dict[int, LocalJob] = {}

    def start(self, fits: Sequence[Fit]) -> Sequence[Job]:
        """Starts processes."""
        return [self._start(fit) for fit in fits]

    def stop(self, jobs: Sequence["LocalJob"]) -> None:
        """Kills processes."""
        for job in jobs:
            kill_process(job.process)
        for job in jobs:
            job.process.wait()

    def _start(self, fit: Fit) -> "LocalJob":
        taken = {slot for slot, job in self._slots.items() if job.poll() is None}
        slot = min(set(range(self.at_once)) - taken)
        share = {} if self.at_once == 1 else share_of_machine(slot, self.at_once, os.environ)
        process = start_process(fit, os.environ | share, inherited=[fit.lock])
        self._slots[slot] = LocalJob(process)
        return self._slots[slot]


class LocalJob(Job):
    """A process.

    Args:
        process: The process.
    """

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process, self._start = process, time.perf_counter()
        self._ended: Ended | None = None

    def poll(self) -> Ended | None:
        """The end of the process."""
        if self._ended is None and (code := self.process.poll()) is not None:
            self._ended = Ended(code, time.perf_counter() - self._start)
        return self._ended


def share_of_machine(slot: int, jobs: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that give a fit its share of the machine.

    Args:
        slot: Number of the fit's place, from 0.
        jobs: Number of places.
        environment: The environment of the sweep, which may limit the threads of a process and
            the GPUs.

    Returns:
        Number of threads and, on a machine with GPUs, the one that the fit sees.
    """
    import torch

    limit = environment.get("OMP_NUM_THREADS", "")  # of one process
    if limit.isdecimal():
        threads = min(int(limit), _cores() // jobs)
    else:
        threads = torch.get_num_threads() // jobs
    share = {name: str(max(1, threads)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    share["TRIMLAB_RUNS_AT_ONCE"] = str(jobs)
    if gpus := _gpus(environment.get("CUDA_VISIBLE_DEVICES")):
        share["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return share


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus(visible: str | None) -> list[str]:
    """Names of the GPUs, as `CUDA_VISIBLE_DEVICES` has them."""
    import torch

    count = torch.cuda.device_count()
    if visible is None:
        return [str(gpu) for gpu in range(count)]
    return [gpu.strip() for gpu in visible.split(",")][:count]

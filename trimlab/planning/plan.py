"""The plan of a run: everything that `trimlab plan` reports."""

import re
from dataclasses import asdict, dataclass

from trimlab.errors import InputError
from trimlab.planning.duration import Durations, calibrated, durations
from trimlab.planning.fitting import Change, what_fits
from trimlab.planning.job import Job
from trimlab.planning.memory import PhaseMemory
from trimlab.planning.processes import phases_by_process
from trimlab.planning.trimmed import TrimmedSize, trimmed_sizes
from trimlab.records.rows import JsonObject

UNITS = {"": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
        job: The run.
        phases: Memory by phase.
        durations: Times.
        sizes: The full model and the trimmed ones.
        memory: Bytes of the device that it is to fit in.
        changes: Options with which it fits; empty: it does as it is; None: none do.
    """

    job: Job
    phases: list[PhaseMemory]
    durations: Durations
    sizes: list[TrimmedSize]
    memory: int
    changes: list[Change] | None

    def to_row(self) -> JsonObject:
        """The plan as a JSON object; bytes and seconds."""
        machine, settings = self.job.machine, self.job.settings
        return {
            "machine": {
                "name": machine.name,
                "memory": self.memory,
                "matrix_rate": machine.matrix_rate,
                "bandwidth": machine.bandwidth,
            },
            "lengths": self.job.workload.source,
            "r": settings.r,
            "precision": settings.precision,
            "processes": settings.processes,
            "strategy": settings.strategy,
            "trained_parameters": self.job.all_trained,
            "memory": {
                phase.name: {"total": phase.total, "parts": phase.parts} for phase in self.phases
            },
            "seconds": asdict(self.durations),
            "models": [asdict(size) for size in self.sizes],
            "fits": self.changes == [],
            "fits_with": None
            if self.changes is None
            else {change.option: change.value for change in self.changes},
        }


def make_plan(job: Job, memory: int | None = None) -> Plan:
    """Plans a run.

    Args:
        job: The run.
        memory: Bytes of the device that it is to fit in; by default those of the machine.
    """
    if job.machine.here:
        job = calibrated(job)
    if memory is None:
        memory = job.machine.memory
        if not job.machine.cuda:  # main memory is shared
            memory //= job.settings.processes
    found = phases_by_process(job)
    return Plan(
        job=job,
        phases=found,
        durations=durations(job),
        sizes=trimmed_sizes(job),
        memory=memory,
        changes=what_fits(job, memory, max(phase.total for phase in found)),
    )


def parse_memory(text: str) -> int:
    """Bytes from a size such as `24GiB` or `80GB`.

    Raises:
        InputError: The text is no size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B)?", text.strip(), re.IGNORECASE)
    size = 0 if found is None else int(float(found[1]) * UNITS[(found[2] or "").upper()])
    if size < 1:
        raise InputError(f"--device-memory takes a size such as 24GiB or 80GB, not {text!r}")
    return size

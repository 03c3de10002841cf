"""What one of several processes of a run holds.

Training, dev evaluation and scans are divided; untrimmed and exported models are measured by the
first process alone.
"""

from collections.abc import Callable
from dataclasses import replace

from trimlab.planning.job import Job
from trimlab.planning.memory import PhaseMemory, phases

TRAINING = ("fine-tuning", "training", "fine-tuned comparison")
BETWEEN = ("scan", "dev evaluation")  # of a model that is trained


def phases_by_process(job: Job) -> list[PhaseMemory]:
    """The phases of a run, as the process with most memory has them."""
    n = job.settings.processes
    if n == 1:
        return phases(job)
    share = -(-job.settings.batch_size // n)  # of the items of a step
    alone, divided = phases(job), phases(job.changed(batch_size=share))
    hold = _HOLD[job.settings.strategy]
    held: list[PhaseMemory] = []
    for phase, part in zip(alone, divided, strict=True):
        of_job = job.fine_tuning if phase.name == "fine-tuning" else job
        known = phase.name in TRAINING + BETWEEN
        held.append(hold(of_job, part) if known else phase)
    return held


# ---- inside ------------------------------------------------------------------------------------


def _ddp(job: Job, phase: PhaseMemory) -> PhaseMemory:
    """A whole model, and the buckets in which gradients are averaged."""
    buckets = job.settings.dtype.itemsize * job.all_trained
    return replace(phase, parts={**phase.parts, "gradient buckets": buckets})


def _fsdp(job: Job, phase: PhaseMemory) -> PhaseMemory:
    """A part of the sublayers and their state, and whole ones while they compute."""
    n, item, parts = job.settings.processes, job.settings.dtype.itemsize, dict(phase.parts)
    layers = item * job.sizes.layers
    largest = item * max(job.sizes.parameters_of("attention"), job.sizes.parameters_of("mlp"))
    if phase.name in TRAINING:
        # beside its part: the sublayer that computes and the next one, which is on its way
        parts["weights"] -= layers - layers // n - 2 * largest
        parts["gradients"] = parts["gradients"] // n + largest
    else:
        parts["weights"] += layers // n  # all of them are gathered beside its part
        parts["gradients"] //= n
    parts["optimizer"] //= n
    return replace(phase, parts=parts)


_HOLD: dict[str, Callable[[Job, PhaseMemory], PhaseMemory]] = {"ddp": _ddp, "fsdp": _fsdp}

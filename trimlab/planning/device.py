"""Too little memory on a GPU: found at the start of a run, and what to lower."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from trimlab.errors import InputError
from trimlab.memory import gib
from trimlab.planning.fitting import peak, what_fits
from trimlab.planning.job import Job
from trimlab.planning.machine import Machine
from trimlab.planning.settings import RunSettings
from trimlab.planning.sizes import ModelSizes
from trimlab.planning.workload import assumed
from trimlab.records.rows import JsonObject

ADVICE = (
    "lower model.train_tokens and data.eval_tokens, set model.activation_checkpointing, "
    "model.optimizer adamw_8bit or model.lora_rank, or lower trim.r; "
    "`trimlab plan` with the same arguments says what fits"
)


def check_device_memory(
    model: PreTrainedConfig,
    config: JsonObject,
    sets: Mapping[str, Mapping[str, Any]],
    device: torch.device,
) -> None:
    """Refuses a run that a GPU has too little memory for; on other devices it does nothing.

    Args:
        model: The config of the base model.
        config: The resolved config of the run.
        sets: Number of items and the longest text of every row set, as a `DataReport` has them.
        device: The device of the run.

    Raises:
        InputError: The memory is too little; the message says which options fit.
    """
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)  # of this process, which holds the model already
    machine = Machine(torch.cuda.get_device_name(device), total, 1.0, 1.0, base=0)
    check_fits(planned_job(model, config, sets, machine), free)


def planned_job(
    model: PreTrainedConfig,
    config: JsonObject,
    sets: Mapping[str, Mapping[str, Any]],
    machine: Machine,
) -> Job:
    """A run whose longest texts are known."""
    settings = RunSettings.from_config(config)
    longest = max(int(found["longest"]) for found in sets.values())
    longest = max(2, min(longest, settings.max_length))
    counts = {name: max(1, int(found["items"])) for name, found in sets.items()}
    # lengths decide about time; the memory is that of the fullest batch
    all_choices = settings.training_loss.all_choices
    workload = assumed(counts, (longest, longest), all_choices=all_choices)
    return Job(ModelSizes(model), settings, workload, machine)


def check_fits(job: Job, free: int) -> None:
    """Refuses a run that needs more than so many bytes.

    Raises:
        InputError: It does; the message says which options fit.
    """
    needed = peak(job)
    if needed <= free:
        return
    chosen = what_fits(job, free, needed)
    advice = "no option makes it fit: take a smaller model or a larger device"
    if chosen:
        advice = f"it fits with {' '.join(map(str, chosen))}"
    raise InputError(
        f"{job.machine.name} has {gib(free)} free and this run needs about {gib(needed)}: "
        f"{advice} (`trimlab plan` with the same arguments shows what fills the memory)"
    )

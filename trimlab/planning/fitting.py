"""Options that make a run fit in the memory of a device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trimlab.data.capacity import EVAL_TOKENS
from trimlab.planning.job import Job
from trimlab.planning.memory import trained_state, weights_bytes
from trimlab.planning.processes import phases_by_process

MARGIN = 0.95  # share of the memory that is planned with: an allocator cannot use all of it
LORA_RANK = 16


@dataclass(frozen=True)
class Change:
    """An option that takes less memory.

    Attributes:
        option: Its name in a config.
        value: Its value.
        why: What it costs.
        fields: The settings that it changes.
    """

    option: str
    value: Any
    why: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"--{self.option} {value}"


def peak(job: Job) -> int:
    """Most memory of any phase of a run."""
    return max(phase.total for phase in phases_by_process(job))


def floor(job: Job) -> int:
    """Memory of a run between two steps: weights, optimizer and gradients."""
    sharded = job.settings.processes if job.settings.strategy == "fsdp" else 1
    return job.machine.base + weights_bytes(job) + sum(trained_state(job).values()) // sharded


def changes(job: Job) -> Iterator[Change]:
    """Options that take less memory, those that change the result least first."""
    settings, longest = job.settings, job.workload.longest
    fsdp = settings.processes > 1  # which is among the options, and takes neither of two others
    if job.machine.cuda and settings.precision != "bf16-true":
        yield Change(
            "trainer.precision",
            "bf16-true",
            "weights of 16 bits",
            {"precision": "bf16-true"},
        )
    for name, field, tokens in (
        ("model", "train_tokens", settings.train_tokens),
        ("data", "eval_tokens", job.capacity.tokens),
    ):
        while tokens > longest:
            tokens = max(tokens // 4, longest)
            if field == "eval_tokens" and job.machine.cuda and tokens == EVAL_TOKENS:
                tokens -= 1  # which stands for as many as the memory of a GPU allows
            yield Change(
                f"{name}.{field}", tokens, "the same result in smaller parts", {field: tokens}
            )
    if not settings.checkpointing:
        yield Change(
            "model.activation_checkpointing",
            True,
            "the same result, blocks computed twice",
            {"checkpointing": True},
        )
    if settings.processes > 1 and settings.strategy == "ddp":
        yield Change(
            "trainer.strategy",
            "fsdp",
            "weights, gradients and moments in parts, more communication",
            {"strategy": "fsdp"},
        )
    if settings.optimizer != "adamw_8bit" and not settings.lora_rank and not fsdp:
        yield Change(
            "model.optimizer",
            "adamw_8bit",
            "moments of 8 bits",
            {"optimizer": "adamw_8bit"},
        )
    for r in (0.5, 0.25, 0.125):
        if r < settings.r:
            yield Change("trim.r", r, "fewer sublayers are trained", {"r": r})
    if not settings.lora_rank and not fsdp:
        yield Change(
            "model.lora_rank",
            LORA_RANK,
            "adapters are trained in place of weights",
            {"lora_rank": LORA_RANK},
        )


def what_fits(job: Job, memory: int, needed: int | None = None) -> list[Change] | None:
    """The first options with which a run fits, or None if none do.

    Options are added in the order of `changes` until the run fits; then those that it fits without
    are left out.

    Args:
        job: The run.
        memory: Bytes of the device.
        needed: The run's peak, where it is known.
    """
    if (peak(job) if needed is None else needed) <= MARGIN * memory:
        return []

    def fits(chosen: list[Change]) -> bool:
        fields = {k: v for change in chosen for k, v in change.fields.items()}
        changed = job.changed(**fields)
        # what no batch size changes, before any pass is counted
        return floor(changed) <= MARGIN * memory and peak(changed) <= MARGIN * memory

    chosen: dict[str, Change] = {}
    for change in changes(job):
        chosen[change.option] = change  # a later value of an option replaces an earlier one
        if fits(list(chosen.values())):
            break
    else:
        return None
    for option in list(chosen)[:-1]:
        others = [change for name, change in chosen.items() if name != option]
        if fits(others):
            del chosen[option]
    return list(chosen.values())

"""The learning rate over the optimizer steps, as a share of its peak."""

from dataclasses import dataclass
from typing import Literal

from trimlab.errors import InputError

ScheduleName = Literal["linear", "constant", "restart"]


@dataclass(frozen=True)
class Schedule:
    """What the peak of the learning rate is multiplied by.

    Attributes:
        name: `linear` falls over the planned steps, `constant` stays, `restart` falls over an
            epoch from every drop on.
        final_share: Share that a falling schedule ends at and stays at.
        warmup_steps: Steps over which the rate rises at the start and at every restart.
    """

    name: ScheduleName = "linear"
    final_share: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            InputError: One of them is out of range.
        """
        if not 0 <= self.final_share <= 1:
            raise InputError(
                f"model.final_lr_share must be between 0 and 1, not {self.final_share}"
            )
        if self.warmup_steps < 0:
            raise InputError(f"model.warmup_steps must be 0 or more, not {self.warmup_steps}")

    def share(self, step: int, planned: int, per_epoch: int) -> float:
        """The share of the peak.

        Args:
            step: Optimizer steps since the start or the last restart.
            planned: Steps that the whole fit is planned to take.
            per_epoch: Steps of an epoch.
        """
        rising = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.name == "constant":
            return rising
        length = planned if self.name == "linear" else per_epoch
        return rising * max(1 - step / length, self.final_share)

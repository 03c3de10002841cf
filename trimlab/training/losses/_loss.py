"""The base class of losses, and the loader."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import plugin_class, plugin_module

LOSSES = "trimlab.training.losses"


class Loss(ABC):
    """A sum of terms, so that a batch can be computed in parts whose losses are added up.

    Attributes:
        all_positions: Whether hidden states are read at all positions. Otherwise they are valid
            only where a scored token is predicted, and cost less.
        needs_teacher: Whether the loss compares the model with a teacher.
        all_choices: Whether training items have all their choices, of which the scored tokens are
            those of all; otherwise, they have the right one alone.
        head_everywhere: Whether the LM head runs at all positions, for predictions of memory.
    """

    all_positions: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    all_choices: ClassVar[bool] = False
    head_everywhere: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        """Sum of the terms of a batch.

        Args:
            stack: The model.
            hidden: Its last hidden states, after the final norm.  # (B, T, D)
            batch: The items.
            teacher: The teacher, if the loss needs one.

        Returns:
            A scalar with gradients.  # ()
        """

    def count(self, batch: Batch) -> int:
        """Number of terms of a batch, by which a step divides; by default its scored tokens.

        It must read no tensor of the batch, which would wait for a GPU: `batch.lengths` and other
        facts are on the CPU.
        """
        return len(batch.targets)


def check_teacher(loss: str, trim_from: str) -> None:
    """Refuses a loss that needs a teacher in a run that makes none.

    Args:
        loss: Name of the loss.
        trim_from: `run.trim_from`.

    Raises:
        InputError: There would be no teacher.
    """
    if load_loss(loss).needs_teacher and trim_from != "fine_tuned":
        raise InputError(f"model.loss {loss} needs a teacher: give run.trim_from fine_tuned, too")


def load_loss(name: str) -> Loss:
    """Makes a loss.

    Args:
        name: A file in this folder (`answers`).

    Raises:
        InputError: There is no such loss.
    """
    return plugin_class(plugin_module(LOSSES, name, "loss"), Loss)()

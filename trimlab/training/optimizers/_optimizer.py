"""The base class of optimizers, and the loader."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from trimlab.plugins import plugin_class, plugin_module

OPTIMIZERS = "trimlab.training.optimizers"


class TrainOptimizer(ABC):
    """Makes an optimizer, and narrows it when sublayers are dropped or frozen.

    Attributes:
        moment_bytes: Bytes per trained parameter of the moments, or None where they have the type
            of the weights.
    """

    moment_bytes: ClassVar[float | None] = None

    def check(self, device: torch.device) -> None:  # noqa: B027  # most optimizers run everywhere
        """Refuses a device on which the optimizer cannot work.

        Args:
            device: Where the weights are trained.

        Raises:
            InputError: A library is missing, or does not support the device.
        """

    @abstractmethod
    def make(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        """An optimizer with one group of parameters, which may be empty.

        Args:
            parameters: What is trained, on its device.
            lr: Learning rate.
            weight_decay: Decoupled weight decay.
        """

    def keep(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        """Trains these parameters from now on, with the moments of those that were trained before.

        Args:
            optimizer: What `make` returned.
            parameters: What stays or becomes trainable, in the order of the model.
        """
        kept = set(parameters)
        (group,) = optimizer.param_groups
        group["params"] = list(parameters)
        for gone in set(optimizer.state) - kept:
            del optimizer.state[gone]


def load_optimizer(name: str) -> TrainOptimizer:
    """Makes an optimizer's factory.

    Args:
        name: A file in this folder (`adamw`).

    Raises:
        InputError: There is no such optimizer.
    """
    return plugin_class(plugin_module(OPTIMIZERS, name, "optimizer"), TrainOptimizer)()

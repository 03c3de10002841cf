"""What trimming needs of a Lightning strategy of several processes, and the loader."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from lightning.pytorch.strategies import ParallelStrategy

from trimlab.errors import InputError
from trimlab.plugins import plugin_class, plugin_module, plugin_names

STRATEGIES = "trimlab.training.strategies"


class Distributed(ParallelStrategy, ABC):
    """A strategy whose model can lose parameters while it is trained.

    Attributes:
        extends: The strategy of Lightning that it extends.
        lockstep: Whether training passes communicate, so that every process must make as many.
    """

    extends: ClassVar[type[ParallelStrategy]]
    lockstep: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its name in `trainer.strategy`."""
        return type(self).__module__.rpartition(".")[2]

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuses options of a `DomainLM` that do not work under the strategy.

        Raises:
            InputError: One of them is set.
        """

    @abstractmethod
    def join(self) -> None:
        """Meets the other processes, before the first fit; they stay together until they end."""

    @abstractmethod
    def on_parameters_changed(self) -> None:
        """Called when parameters have been dropped or frozen: what was wrapped is not any more."""

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Within the context, passes without gradients do not communicate."""
        yield


def load_strategy(name: Any) -> Distributed:
    """Makes a strategy.

    Args:
        name: A file in this folder (`ddp`), or Lightning's strategy that it extends, or the name of
            that class.

    Raises:
        InputError: Models cannot be trimmed under this strategy.
    """
    shown = name if isinstance(name, str) else type(name).__name__
    names = plugin_names(STRATEGIES)
    for known in names:
        cls = plugin_class(plugin_module(STRATEGIES, known, "strategy"), Distributed)
        if shown in (known, cls.extends.__name__):
            return cls()
    raise InputError(f"trainer.strategy {shown} is not supported: take one of {', '.join(names)}")

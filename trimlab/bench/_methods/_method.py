"""The base class of methods, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import nn

from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import plugin_class, plugin_module

METHODS = "trimlab.bench._methods"


class Method(ABC):
    """One way to make a model cheaper to run.

    Attributes:
        title: Its name in Table 1.
        library: The library whose kernels it needs, or None.
        stock: Whether the model has ordinary weights and kernels, so that every engine runs it.
    """

    title: str
    library: ClassVar[str | None] = None
    stock: bool = False

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Refuses a device or a type of weights without kernels for the method.

        Raises:
            InputError: There are none.
        """
        if self.library is not None and find_spec(self.library) is None:
            raise InputError(
                f"{self.title} needs {self.library}, which is not installed: "
                "pip install 'trimlab[baselines]'"
            )

    @abstractmethod
    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Changes a model in place, on its device.

        Returns:
            The cheaper model: the stack itself, or another one in its place, which is empty then.
        """


class Combined(Method):
    """Several methods, one after another.

    Args:
        parts: The methods.
    """

    def __init__(self, parts: Sequence[Method]):
        self.parts = parts
        self.title = " + ".join(part.title for part in parts)
        self.stock = all(part.stock for part in parts)

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """See `Method.check`."""
        for part in self.parts:
            part.check(device, dtype)

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """See `Method.apply`."""
        for part in self.parts:
            stack = part.apply(stack)
        return stack


def load_method(name: str) -> Method:
    """A method by name.

    Args:
        name: Name of a file, or several names with `+` between them.

    Raises:
        InputError: There is no such method.
    """
    parts = [
        plugin_class(plugin_module(METHODS, part, "method"), Method)() for part in name.split("+")
    ]
    return parts[0] if len(parts) == 1 else Combined(parts)


def replace_linears(stack: SublayerStack, replacement: Callable[[nn.Linear], nn.Module]) -> None:
    """Replaces the linear layers of all blocks, one after another; the LM head stays.

    Args:
        stack: The model.
        replacement: Makes the new layer from the old one, which is freed then.
    """
    for block in stack.blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, replacement(child))

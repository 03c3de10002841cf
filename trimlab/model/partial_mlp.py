"""An MLP that computes its output at some positions only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def only_at(positions: Tensor, first: nn.Module, last: nn.Module) -> Iterator[None]:
    """Runs a chain of modules at some positions; its output is zero at the others.

    Args:
        positions: Indices into batch and time, flattened.  # (U,)
        first: The module of the chain that reads the hidden states.  # (B, T, D)
        last: The module of the chain that gives its output.  # (B, T, D)
    """
    shapes: list[torch.Size] = []

    def gather(_module: Any, args: tuple[Tensor, ...]) -> Tensor:
        shapes.append(args[0].shape)
        return args[0].flatten(0, -2)[positions]  # (U, D)

    def scatter(_module: Any, _args: Any, output: Tensor) -> Tensor:
        shape = shapes.pop()
        zeros = output.new_zeros(shape).flatten(0, -2)  # (B * T, D)
        return zeros.index_copy(0, positions, output).view(shape)  # (B, T, D)

    handles = [first.register_forward_pre_hook(gather), last.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Bypass rules: the modules that take the place of those of a dropped or bypassed sublayer."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from trimlab.model.family import Kind, Layout

# the module in place of a sublayer's module, given the kind, the layout, its name and the module
Replacement = Callable[[Kind, Layout, str, nn.Module], nn.Module]


class NoOp(nn.Module):
    """Takes the place of a sublayer's core and outputs zero: the residual stream passes."""

    def __init__(self, kind: Kind):
        super().__init__()
        self.kind = kind

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns zero as the block expects it: a scalar, in a tuple for an attention."""
        # a scalar broadcasts in the residual add: the sum is x, bit for bit, and costs no matrix
        zero = hidden_states.new_zeros(())
        return (zero, None) if self.kind == "attention" else zero


def residual_replacement(kind: Kind, layout: Layout, name: str, module: nn.Module) -> nn.Module:
    """The residual identity: the core adds zero, and the norms are gone."""
    return NoOp(kind) if name == layout.core else nn.Identity()

"""An ablation: dropping an attention as TrimLLM's released code does it.

There a block without attention goes on with the norm's output in the place of the residual
stream: h becomes norm(h), where the residual bypass leaves h. (A dropped MLP is the residual
identity in both.) A scan that measures attentions this way charges them for the normalised
stream too, which may be why the paper drops far more MLPs: Figure 3 compares the two. No stock
model computes it, so it is measured in memory and can't be exported.

norm is the one that reads the residual stream, in Gemma 2 and 3 too: the norm behind the
attention has nothing left to normalise and is gone. norm stays trainable if its attention was.
Sizes count it as gone, as they do with the residual bypass: the same drops have the same ratio.
"""

from typing import Any

from torch import nn

from trimlab.errors import InputError
from trimlab.model.family import Layout
from trimlab.model.sublayers import Kind, NoOp, SublayerStack, residual_replacement


def check_authors_bypass(stack: SublayerStack) -> None:
    """Refuses a stack that cannot drop as the authors' released code does; changes nothing.

    Raises:
        InputError: Attention and MLP read the same input (GPT-NeoX), so that no block of the
            authors' code corresponds to it, or the stack has dropped sublayers already.
    """
    if stack.parallel:
        raise InputError(
            "trim.bypass authors is not defined where attention and MLP of a block read the same "
            "input: leave it at residual"
        )
    if stack.history and stack.bypass_rule != "authors":
        raise InputError("this model has dropped sublayers already, with the residual bypass")


def use_authors_bypass(stack: SublayerStack) -> None:
    """Makes a stack drop and bypass attentions as the authors' released code does.

    Args:
        stack: A stack that has dropped nothing yet; one that does so already stays as it is.

    Raises:
        InputError: The stack cannot, see `check_authors_bypass`.
    """
    if stack.bypass_rule == "authors":
        return
    check_authors_bypass(stack)
    attention = stack.family.attention

    def replacement(kind: Kind, layout: Layout, name: str, module: nn.Module) -> nn.Module:
        if kind == "attention" and name == attention.modules[0]:
            return module
        return residual_replacement(kind, layout, name, module)

    def normalise(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not isinstance(getattr(block, attention.core), NoOp):
            return None
        norm = getattr(block, attention.modules[0])
        return norm(args[0]), *args[1:]

    stack.bypass_rule, stack.replacement = "authors", replacement
    for block in stack.blocks:
        # the whole block reads norm(h), exactly, in any precision: its attention adds zero
        block.register_forward_pre_hook(normalise)

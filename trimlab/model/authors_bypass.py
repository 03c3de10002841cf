"""Ablation: dropping an attention as TrimLLM's released code does it.

A block without attention replaces the residual stream h by norm(h); the residual bypass leaves h
as it is. A dropped MLP is the residual identity in both. With this bypass, the score of an
attention includes the effect of normalising the stream, a possible reason for the paper's many
dropped MLPs: Figure 3 compares the two. No stock model computes it, so models are measured in
memory and can't be exported.

The norm is the one that reads the residual stream, in Gemma 2 and 3 too; the norm after the
attention has no input any more and is removed. The norm stays trainable if its attention was.
Sizes count it as removed, as with the residual bypass: equal drops have equal ratios.

Source: https://arxiv.org/abs/2412.11242 and the code that its authors released.
"""

from typing import Any

from torch import nn

from trimlab.errors import InputError
from trimlab.model.bypass import NoOp, residual_replacement
from trimlab.model.family import Kind, Layout
from trimlab.model.sublayers import SublayerStack


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
        stack: A stack that has dropped nothing yet. A second call changes nothing.

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

    stack.use_bypass_rule("authors", replacement)
    for block in stack.blocks:
        # exact in any precision: the whole block reads norm(h), and its attention adds zero
        block.register_forward_pre_hook(normalise)

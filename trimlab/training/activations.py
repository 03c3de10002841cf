"""Activation checkpointing: the backward pass computes a block again from its input."""

from typing import Any

from transformers import PreTrainedModel


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keeps only the inputs of blocks between the forward and the backward pass of a training step.

    Blocks without a gradient keep nothing and run once. In evaluation mode nothing changes.

    Args:
        model: The model.
    """
    kind = {"use_reentrant": False}  # the reentrant kind knows no torch.autograd.grad
    anything: Any = model  # its method was renamed in transformers 5
    if hasattr(model, "activation_checkpointing_enable"):
        anything.activation_checkpointing_enable(kind)
    else:
        anything.gradient_checkpointing_enable(kind)

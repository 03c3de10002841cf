"""Running a model with its weights rounded to the type of an export, without a second copy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def rounded_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Rounds the weights of each module to a type while that module computes, and only then.

    The export of a model in another type is compared with this: computed in the model's own type,
    the logits differ by no more than the order of summation explains.

    Args:
        model: The model, whose weights are the same afterwards.
        dtype: The type to round to.
    """
    kept: dict[nn.Parameter, Tensor] = {}

    def round_weights(module: nn.Module, _args: Any) -> None:
        for weight in module.parameters(recurse=False):
            kept[weight] = weight.data
            weight.data = weight.data.to(dtype).to(weight.dtype)

    def restore(module: nn.Module, _args: Any, _output: Any) -> None:
        for weight in module.parameters(recurse=False):
            weight.data = kept.pop(weight)

    handles: list[Any] = []
    if any(weight.dtype != dtype for weight in model.parameters()):
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_pre_hook(round_weights))
                handles.append(module.register_forward_hook(restore))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for weight, original in kept.items():  # of a module whose forward pass raised
            weight.data = original

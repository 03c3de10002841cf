"""2:4 sparsity, as SparseGPT and Wanda leave it, with the kernels of PyTorch for NVIDIA GPUs."""

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from trimlab.bench._methods._method import Method, replace_linears
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack


class Sparse24(Method):
    """Zeroes the two smallest of every four weights of a row, and stores the other two."""

    title = "2:4 sparsity"

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Refuses all but 16 bits on GPUs with sparse matrix units.

        Raises:
            InputError: There are no kernels.
        """
        super().check(device, dtype)
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise InputError("sparse24 needs an NVIDIA GPU of compute capability 8.0 or more")
        if dtype.itemsize != 2:
            raise InputError("sparse24 needs --dtype bfloat16")

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Prunes the weights."""

        def sparse(layer: nn.Linear) -> nn.Module:
            pruned = two_of_four(layer.weight.detach())
            layer.weight = nn.Parameter(to_sparse_semi_structured(pruned), requires_grad=False)
            return layer

        replace_linears(stack, sparse)
        return stack


def two_of_four(weight: Tensor) -> Tensor:
    """The weights with the two smallest of every four in a row at zero.  # (R, C) -> (R, C)"""
    groups = weight.unflatten(1, (-1, 4))  # (R, C / 4, 4)
    smallest = groups.abs().argsort(-1)[..., :2]
    return groups.scatter(-1, smallest, 0.0).flatten(1)

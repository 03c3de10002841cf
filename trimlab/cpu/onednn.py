"""Faster linear layers for inference on a CPU, with weights in oneDNN's blocked layout.

oneDNN's kernels read weight matrices in blocks; PyTorch's own `linear` passes the strided matrix
to BLAS every time. The blocked layout saves a sixth of a forward pass on AMD Zen 4, and more than
half of the time of a wide LM head on few rows.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh

from trimlab.memory import give_back_memory

# oneDNN caches primitives for the last 1,024 shapes of a product, at 0.6 MiB each, and every number
# of tokens is a shape of its own. A pass needs a few dozen.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


@contextmanager
def onednn_linears(model: nn.Module) -> Iterator[None]:
    """Computes float32 linear layers on the CPU with oneDNN; for passes without gradients.

    Weights in blocked layout replace the original ones, which are restored bit for bit at the end.
    A weight that another module shares (a tied LM head) keeps its layout: oneDNN reads it, too,
    and a blocked copy would double its memory. A gate's tanh GELU is fused with the product before
    it, which saves a pass over the widest tensor of a block. Nothing changes on other devices and
    in other types.

    Args:
        model: The model. Within the context its weights cannot be read.
    """
    laid_out: dict[nn.Linear, Tensor] = {}
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    linears = _linears(model)
    if not linears:
        yield
        return
    shared = {module for module in linears if users[id(module.weight)] > 1}
    activations = _activations_of_gates(model)
    try:
        # tensors made in inference mode could not be trained again
        with torch.inference_mode(False), torch.no_grad():
            for module in linears:
                if module not in shared:
                    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
                    laid_out[module] = weight
                    module.weight.data = weight.new_empty(0, layout=torch.strided)
                activation = activations.get(module)
                vars(module)["forward"] = _forward(laid_out, module, gelu=activation is not None)
                if activation is not None:
                    vars(activation)["forward"] = _identity
        give_back_memory()  # blocks do not fit into the memory of the weights that they replace
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for module in reversed(linears):  # each is whole again before the next: interruptible
                if module in laid_out:
                    module.weight.data = laid_out[module].to_dense()
                    del laid_out[module]
                vars(module).pop("forward", None)  # missing if the preparation was interrupted
                if module in activations:
                    vars(activations[module]).pop("forward", None)
        give_back_memory()


def _linears(model: nn.Module) -> list[nn.Linear]:
    if not torch.backends.mkldnn.is_available():
        return []
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)  # prepared already, or replaced by other code
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
    ]


def _activations_of_gates(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """The activation of each gate that oneDNN can fuse with the product before it."""
    names = {"gate_proj", "act_fn"}  # their names in Transformers, in every family that has them
    gated = [dict(module.named_children()) for module in model.modules()]
    return {
        children["gate_proj"]: children["act_fn"]
        for children in gated
        if names <= children.keys() and type(children["act_fn"]) is GELUTanh
    }


def _forward(
    laid_out: dict[nn.Linear, Tensor], module: nn.Linear, gelu: bool
) -> Callable[[Tensor], Tensor]:
    fused = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def forward(x: Tensor) -> Tensor:
        # looked up at every call: a copy of this function must not keep the blocks alive
        weight = laid_out.get(module, module.weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, module.bias, *fused)

    return forward


def _identity(x: Tensor) -> Tensor:
    return x

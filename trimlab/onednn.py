"""Faster linear layers for inference on a CPU: the same products from weights laid out in blocks.

oneDNN multiplies by a weight matrix that lies in the blocks its kernel reads; PyTorch's own
`linear` hands the plain matrix to BLAS every time. Worth a sixth of a pass on AMD Zen 4, and more
than half of a wide LM head's time on few rows.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def onednn_linears(model: nn.Module) -> Iterator[None]:
    """Lets float32 linear layers on the CPU compute with oneDNN; for passes without gradients.

    The blocks take the place of the weights, which come back bit for bit in the end. A weight
    that another module shares (a tied LM head) stays beside its blocks, which take as much memory
    again. Everything on other devices and in other types stays as it is.

    Args:
        model: The model; until the end of the context its weights cannot be read.
    """
    laid_out: list[tuple[nn.Linear, Tensor]] = []
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    shared = {module for module in _linears(model) if users[id(module.weight)] > 1}
    # what is made in inference mode could not be trained again
    with torch.inference_mode(False), torch.no_grad():
        for module in _linears(model):
            weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            laid_out.append((module, weight))
            if module not in shared:
                module.weight.data = weight.new_empty(0, layout=torch.strided)
            vars(module)["forward"] = _forward(weight, module.bias)
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for module, weight in laid_out:
                del vars(module)["forward"]
                if module not in shared:
                    module.weight.data = weight.to_dense()


def _linears(model: nn.Module) -> list[nn.Linear]:
    if not torch.backends.mkldnn.is_available():
        return []
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)  # laid out already, or somebody else's
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
    ]


def _forward(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    return forward

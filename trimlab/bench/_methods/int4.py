"""Four bits a weight (NF4; Dettmers et al. 2023, arXiv 2305.14314); bitsandbytes."""

from importlib import import_module
from typing import Any

from torch import nn

from trimlab.bench._methods._method import Method, replace_linears
from trimlab.model.sublayers import SublayerStack


class Int4(Method):
    """Four bits a weight and a scale for each 64; the products are computed in the model's type."""

    title = "4 bits (NF4)"
    library = "bitsandbytes"

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Rounds the weights."""
        layers: Any = import_module("bitsandbytes.nn")

        def rounded(layer: nn.Linear) -> nn.Module:
            new = layers.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=layer.weight.dtype,
                quant_type="nf4",
                device="meta",
            )
            weight = layers.Params4bit(
                layer.weight.detach(), requires_grad=False, quant_type="nf4", module=new
            )
            new.weight = weight.to(layer.weight.device)
            new.bias = layer.bias
            return new

        replace_linears(stack, rounded)
        return stack

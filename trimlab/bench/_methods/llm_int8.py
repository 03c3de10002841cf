"""LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), with the kernels of bitsandbytes."""

from importlib import import_module
from typing import Any

from torch import nn

from trimlab.bench._methods._method import Method, replace_linears
from trimlab.model.sublayers import SublayerStack


class LLMInt8(Method):
    """Eight bits a weight; input features with an entry above 6 are computed in 16 bits."""

    title = "LLM.int8()"
    library = "bitsandbytes"

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Rounds the weights."""
        layers: Any = import_module("bitsandbytes.nn")

        def rounded(layer: nn.Linear) -> nn.Module:
            new = layers.Linear8bitLt(
                layer.in_features,
                layer.out_features,
                bias=False,
                has_fp16_weights=False,
                threshold=6.0,
                device="meta",
            )
            # the library rounds weights on their way from the CPU
            weight = layers.Int8Params(
                layer.weight.detach().cpu(), requires_grad=False, has_fp16_weights=False
            )
            new.weight = weight.to(layer.weight.device)
            new.bias = layer.bias
            return new

        replace_linears(stack, rounded)
        return stack

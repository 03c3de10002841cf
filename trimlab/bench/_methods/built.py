"""A model built with half of the blocks: the speed that `pairs` must reach."""

from trimlab.bench._methods._method import Method
from trimlab.bench._methods.pairs import Pairs
from trimlab.export._packing import pack, packed_config
from trimlab.model.shape import random_model
from trimlab.model.sublayers import SublayerStack


class Built(Method):
    """Random weights in the model's architecture, with as many blocks as `pairs` leaves."""

    title = "built with half of the blocks"
    stock = True

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Makes the smaller model; the memory of the given one is freed first."""
        dtype, device = stack.model.dtype, stack.model.device
        Pairs().apply(stack)
        config = packed_config(stack, pack(stack))
        stack.model.to("meta")  # type: ignore[arg-type]
        return SublayerStack(random_model(config, dtype, device))

"""Half of the blocks: every other pair of an attention and an MLP is dropped."""

from trimlab.bench._methods._method import Method
from trimlab.model.sublayers import SublayerStack


class Pairs(Method):
    """Drops every other block. Which ones does not change the time."""

    title = "TrimLLM (50%), pairs"
    stock = True

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Drops the sublayers."""
        stack.drop(*[sublayer for sublayer in stack if sublayer.block % 2])
        return stack

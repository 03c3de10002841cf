"""Half of the layer memory, mostly MLPs: drops like those of the paper's Figure 3."""

from collections.abc import Sequence

from trimlab.bench._methods._method import Method
from trimlab.model.sublayers import Sublayer, SublayerStack

# "Far more MLPs than attentions" in the paper, without a number
MLPS_PER_ATTENTION = 5
TARGET = 0.5


class MostlyMLPs(Method):
    """Drops five MLPs for each attention, evenly spaced, to half of the layer memory."""

    title = "TrimLLM (50%), mostly MLPs"
    stock = True

    def apply(self, stack: SublayerStack) -> SublayerStack:
        """Drops the sublayers."""
        stack.drop(*mostly_mlps(stack))
        return stack


def mostly_mlps(stack: SublayerStack) -> list[Sublayer]:
    """The fewest such sublayers without which half of the layer memory is left."""
    mlps = [s for s in stack if s.kind == "mlp"]
    attentions = [s for s in stack if s.kind == "attention"]
    most = (1 - TARGET) * stack.bytes_of(*stack.original)
    dropped: list[Sublayer] = []
    for n in range(1, len(stack)):
        n_mlps = min(n - n // (MLPS_PER_ATTENTION + 1), len(mlps))
        dropped = [*_evenly(mlps, n_mlps), *_evenly(attentions, n - n_mlps)]
        if stack.bytes_of(*dropped) >= most:
            break
    return dropped


def _evenly(sublayers: Sequence[Sublayer], n: int) -> list[Sublayer]:
    """Some sublayers, n of them, each in the middle of an equal part."""
    return [sublayers[(2 * i + 1) * len(sublayers) // (2 * n)] for i in range(n)]

"""Change of the last hidden states by the bypass of a candidate, where answers are predicted."""

from typing import Literal

from torch import Tensor

from trimlab.scanning.statistics import BypassedPasses, BypassStatistic


class HiddenChange(BypassStatistic):
    """Relative squared distance of the last hidden states with and without the candidate.

    It takes a value of its own for every candidate, where accuracy on a few items ties, and needs
    neither the LM head nor wrong choices. Averaged over the items.
    """

    @property
    def choices(self) -> Literal["none", "likeliest", "all"]:
        return "none"

    def of_items(self, passes: BypassedPasses) -> Tensor:
        mask = passes.position_mask.double()  # (B, S)
        whole = passes.whole.double()  # (B, S, D)
        distance = (passes.hidden.double() - whole).square().sum(-1)  # (C, B, S)
        norm = whole.square().sum(-1)  # (B, S)
        return ((distance * mask).sum(-1) / (norm * mask).sum(-1))[None]  # (1, C, B)

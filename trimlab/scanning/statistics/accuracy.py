"""Score of the calibration items with the candidate bypassed, a_i of TrimLLM's Eq. 3."""

from typing import Literal

import torch
from torch import Tensor

from trimlab.evaluation.metrics import metric_estimate, metric_terms
from trimlab.scanning.statistics import BypassedPasses, BypassStatistic


class Accuracy(BypassStatistic):
    """The task's metric, in [0, 100]: accuracy or, for plain text, 100 exp(-mean token loss)."""

    @property
    def choices(self) -> Literal["likeliest", "all"]:
        return "likeliest" if self.metric == "accuracy" else "all"

    def of_items(self, passes: BypassedPasses) -> Tensor:
        assert passes.likelihoods is not None
        amounts, weights = metric_terms(self.metric, passes.likelihoods, passes.batch)
        return torch.stack([amounts, weights.expand_as(amounts)])  # (2, C, B)

    def reduce(self, values: Tensor) -> list[float]:
        return [metric_estimate(self.metric, *terms).value for terms in values.unbind(1)]

"""Score of the calibration items with the candidate bypassed, a_i of TrimLLM's Eq. 3."""

from typing import Literal

import torch
from torch import Tensor

from trimlab.evaluation.likelihoods import choice_hits
from trimlab.evaluation.metrics import metric_estimate, metric_terms
from trimlab.scanning.statistics import BypassedPasses, BypassStatistic


class Accuracy(BypassStatistic):
    """The task's metric, in [0, 100]: accuracy, 100 exp(-mean token loss), or token accuracy."""

    @property
    def choices(self) -> Literal["none", "likeliest", "all"]:
        if self.metric == "token_accuracy":
            return "none"
        return "likeliest" if self.metric == "accuracy" else "all"

    def of_items(self, passes: BypassedPasses) -> Tensor:
        scores = passes.likelihoods if self.choices != "none" else self._hits(passes)
        assert scores is not None
        amounts, weights = metric_terms(self.metric, scores, passes.batch)
        return torch.stack([amounts, weights.expand_as(amounts)])  # (2, C, B)

    @staticmethod
    def _hits(passes: BypassedPasses) -> Tensor:  # (C, B, K)
        n, batch = len(passes.hidden), passes.batch
        hits = choice_hits(passes.stack, passes.hidden.flatten(0, 1), batch.repeated(n))
        return hits.view(n, len(batch), -1)

    def reduce(self, values: Tensor) -> list[float]:
        return [metric_estimate(self.metric, *terms).value for terms in values.unbind(1)]

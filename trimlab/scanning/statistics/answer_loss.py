"""Loss of the right answers with a candidate bypassed."""

from typing import Literal

import torch
from torch import Tensor

from trimlab.evaluation.likelihoods import token_log_probs
from trimlab.scanning.statistics import BypassedPasses, BypassStatistic


class AnswerLoss(BypassStatistic):
    """Mean negative log-likelihood of the right answers' tokens, in nats.

    Greedy search by loss as in SLEB (Song et al. 2024) and BlockPruner (Zhong et al. 2024), on
    answers in the place of texts.
    """

    @property
    def choices(self) -> Literal["none", "likeliest", "all"]:
        return "none"

    def of_items(self, passes: BypassedPasses) -> Tensor:
        n, batch = len(passes.hidden), passes.batch
        repeated = batch.repeated(n)
        log_probs = token_log_probs(passes.stack, passes.hidden.flatten(0, 1), repeated).double()
        sums = log_probs.new_zeros(n * len(batch)).index_add_(0, repeated.item_index, -log_probs)
        tokens = torch.bincount(repeated.item_index, minlength=n * len(batch)).double()
        return torch.stack([sums.view(n, -1), tokens.view(n, -1)])  # (2, C, B)

    def reduce(self, values: Tensor) -> list[float]:
        return (values[0].sum(-1) / values[1].sum(-1)).tolist()

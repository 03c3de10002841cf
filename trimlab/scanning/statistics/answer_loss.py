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
        host = passes.batch.on_host
        right = passes.batch.scoring(host.choice_index == host.gold[host.item_index])
        repeated = right.repeated(len(passes.hidden))
        log_probs = token_log_probs(passes.stack, passes.hidden.flatten(0, 1), repeated)  # (C * P,)
        values = torch.stack([-log_probs.double(), torch.ones_like(log_probs).double()])
        sums = values.new_zeros(2, len(repeated)).index_add_(1, repeated.item_index, values)
        return sums.view(2, len(passes.hidden), -1)  # (2, C, B)

    def reduce(self, values: Tensor) -> list[float]:
        return (values[0].sum(-1) / values[1].sum(-1)).tolist()

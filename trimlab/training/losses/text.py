"""Negative log-likelihood of every token, those of the context included."""

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.evaluation.likelihoods import token_log_probs
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss

CONTEXT_WEIGHT = 0.3


class Text(Loss):
    all_positions = True

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        answers = -token_log_probs(stack, hidden, batch).sum()
        mask = batch.token_mask[:, 1:]
        logits = stack.head(hidden[:, :-1][mask]).float()
        nll = torch.nn.functional.cross_entropy(
            logits, batch.input_ids[:, 1:][mask], reduction="mean"
        )
        return answers + CONTEXT_WEIGHT * len(batch.targets) * nll

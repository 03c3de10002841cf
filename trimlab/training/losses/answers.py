"""Negative log-likelihood of the answer tokens, the loss of TrimLLM."""

from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.evaluation.likelihoods import token_log_probs
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss


class Answers(Loss):
    """Cross-entropy of the answer tokens given all tokens before them, in nats."""

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        return -token_log_probs(stack, hidden, batch).sum()

"""Multiple-choice cross-entropy: the right choice of an item against its other choices.

Accuracy compares the log-likelihoods of choices. The cross-entropy of the answer alone raises that
of the right choice, and says nothing of the wrong ones.
"""

from torch import Tensor
from torch.nn import functional as F

from trimlab.data.batching import Batch, to_device
from trimlab.evaluation.likelihoods import choice_likelihoods
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss

ANSWERS = 0.3  # weight of the cross-entropy of the answer tokens: the model stays one that answers


class Choices(Loss):
    """Cross-entropy of a softmax over the log-likelihoods of an item's choices.

    The log-likelihood of a choice is the sum over its tokens, which accuracy compares. Added is 0.3
    times the mean cross-entropy of the answer tokens. A term is an item. An item without other
    choices, as a mixture may have it, counts with its answer alone.
    """

    all_choices = True

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        likelihoods = choice_likelihoods(stack, hidden, batch)  # (B, K)
        gold = batch.gold[:, None]  # (B, 1)
        host = batch.on_host  # counts of tokens would wait for a GPU
        tokens = to_device(host.choice_tokens.gather(1, host.gold[:, None]), hidden.device)
        answers = -(likelihoods.gather(1, gold) / tokens).sum()
        right = F.cross_entropy(likelihoods, batch.gold, reduction="sum")
        return right + ANSWERS * answers

    def count(self, batch: Batch) -> int:
        return len(batch) if len(batch.targets) else 0

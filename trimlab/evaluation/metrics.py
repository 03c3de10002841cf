"""The two measures of a task, each with its standard error, as one torchmetrics metric.

Beside them, plain functions of the log-likelihoods of choices, for what papers report.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from trimlab.data.batching import Batch

MetricName = Literal["accuracy", "exp_neg_loss"]


class Estimate(NamedTuple):
    """A measured value.

    Attributes:
        value: In [0, 100].
        stderr: Its standard error over the items.
        n: Number of items.
    """

    value: float
    stderr: float
    n: int


def share(right: Tensor) -> Estimate:
    """Share of the items that are right, in percent, with its standard error.

    Args:
        right: Whether an item is right.  # (N,)
    """
    n, percent = len(right), 100.0 * right.double()  # (N,)
    stderr = float(percent.std()) / n**0.5 if n > 1 else 0.0
    return Estimate(float(percent.mean()), stderr, n)


def length_normalised(likelihoods: Tensor, lengths: Tensor) -> Tensor:
    """Log-likelihood a character, by which lm-evaluation-harness's `acc_norm` chooses.

    Args:
        likelihoods: Log-likelihood of every choice, -inf where an item has fewer.  # (B, K)
        lengths: Characters of every choice, without the space in front; 0 where there is
            none.  # (B, K)

    Returns:
        Log-likelihoods per character, -inf where there is no choice.  # (B, K)
    """
    return likelihoods / lengths.clamp(min=1)


def perplexities(likelihoods: Tensor, tokens: Tensor) -> Tensor:
    """Perplexity of every choice, `exp(-log-likelihood / tokens)`.

    Args:
        likelihoods: Log-likelihood of every choice, -inf where an item has fewer.  # (B, K)
        tokens: Tokens of every choice, 0 where there is none.  # (B, K)

    Returns:
        Perplexities, at least 1, inf where there is no choice.  # (B, K)
    """
    return torch.exp(-likelihoods / tokens.clamp(min=1))


def stability(original: Tensor, compressed: Tensor, tokens: Tensor, gold: Tensor) -> Tensor:
    """How far a compressed model keeps to what the original knows (LLM-Streamline).

    An item weighs the more the further the original model tells its choices apart: the weights
    are a softmax over the items of the standard deviation (of a population) of the choices'
    perplexities. Stability is the weight of the items that both models answer right or both
    answer wrong; a model answers with the choice of the lowest perplexity. The released code
    sums as many weights, but the first ones in order; this follows the paper.

    Args:
        original: Log-likelihoods by the original model, -inf where an item has fewer
            choices.  # (B, K)
        compressed: Those by the compressed model.  # (B, K)
        tokens: Tokens of every choice, 0 where there is none.  # (B, K)
        gold: Right choice of each item.  # (B,)

    Returns:
        A number in [0, 1].  # ()
    """
    before = perplexities(original.double(), tokens)  # (B, K)
    after = perplexities(compressed.double(), tokens)  # (B, K)
    there = tokens > 0  # (B, K)
    count = there.sum(-1, keepdim=True)  # (B, 1)
    mean = before.where(there, 0).sum(-1, keepdim=True) / count  # (B, 1)
    variance = (before - mean).where(there, 0).square().sum(-1) / count.squeeze(-1)  # (B,)
    weights = variance.sqrt().softmax(0)  # (B,)
    agree = (chosen(-before) == gold) == (chosen(-after) == gold)  # (B,)
    return (weights * agree).sum()


def chosen(likelihoods: Tensor) -> Tensor:
    """The likeliest choice of every item.

    Args:
        likelihoods: Log-likelihood of every choice.  # (B, K)

    Returns:
        Its index; -1, which is no answer, where a likelihood is not a number.  # (B,)
    """
    # argmax would take the first that is not a number, as if nothing were likelier
    return likelihoods.argmax(-1).where(~likelihoods.isnan().any(-1), -1)


class TaskMetric(Metric):
    """Accuracy in percent or, for plain text, the likelihood 100 exp(-mean token loss).

    Both are a ratio of sums over the items: right answers over items, or loss over tokens. The
    standard error of a ratio r = sum(y) / sum(w) is that of the mean of y - r w, over mean(w)
    (for accuracy, the harness's `mean_stderr`: sample standard deviation over sqrt(n)).

    Args:
        name: Which of the two.
    """

    full_state_update = False
    amounts: list[Tensor]
    weights: list[Tensor]

    def __init__(self, name: MetricName):
        super().__init__()
        self.name = name
        self.add_state("amounts", default=[], dist_reduce_fx="cat")
        self.add_state("weights", default=[], dist_reduce_fx="cat")

    def update(self, likelihoods: Tensor, batch: Batch) -> None:
        """Adds a batch.

        Args:
            likelihoods: Log-likelihood of every choice.  # (B, K)
            batch: The items.
        """
        likelihoods = likelihoods.double()
        if self.name == "accuracy":
            self.amounts.append((chosen(likelihoods) == batch.gold).double())
            self.weights.append(torch.ones(len(batch), dtype=torch.float64).to(batch.gold.device))
        else:
            gold = batch.choice_index == batch.gold[batch.item_index]
            tokens = torch.bincount(batch.item_index[gold], minlength=len(batch)).double()
            self.amounts.append(-likelihoods.gather(1, batch.gold[:, None]).squeeze(1))
            self.weights.append(tokens)

    def compute(self) -> Tensor:
        """The value, in [0, 100]."""
        return torch.tensor(self.score().value, dtype=torch.float64)

    def score(self) -> Estimate:
        """The value with its standard error and the number of items."""
        amounts, weights = dim_zero_cat(self.amounts), dim_zero_cat(self.weights)
        n, ratio = len(amounts), amounts.sum() / weights.sum()
        spread = (amounts - ratio * weights).square().sum() / max(n - 1, 1)
        stderr = (spread / n).sqrt() / weights.mean()
        if self.name == "accuracy":
            return Estimate(100 * float(ratio), 100 * float(stderr), n)
        value = 100 * float(torch.exp(-ratio))
        return Estimate(value, value * float(stderr), n)

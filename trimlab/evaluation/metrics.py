"""The metric of a task with its standard error, as functions and as a torchmetrics metric.

Beside them, functions of the log-likelihoods of choices that papers report.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from trimlab.data.batching import Batch
from trimlab.data.task import MetricName


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
    """Share of right answers, in percent, with its standard error.

    Args:
        right: Whether, or in which part, an answer is right.  # (N,)
    """
    n, percent = len(right), 100.0 * right.double()  # (N,)
    stderr = float(percent.std()) / n**0.5 if n > 1 else 0.0
    return Estimate(float(percent.mean()), stderr, n)


def length_normalised(likelihoods: Tensor, lengths: Tensor) -> Tensor:
    """Log-likelihood per character, the criterion of lm-evaluation-harness's `acc_norm`.

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
    """Stability of a compressed model (LLM-Streamline, arXiv 2403.19135).

    The weight of an item is a softmax, over the items, of the population standard deviation of
    its choices' perplexities under the original model. Stability is the total weight of the items
    that both models answer right or both answer wrong; a model's answer is the choice of the
    lowest perplexity. The released code sums the same number of weights, but takes the first ones
    in order; this follows the paper.

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


def metric_terms(name: MetricName, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Terms of a metric: one amount and one weight for every item.

    Args:
        name: The metric.
        scores: What the metric needs of every choice, of any number of models: its hits for token
            accuracy, else its log-likelihood.  # (..., B, K)
        batch: The items.

    Returns:
        Amounts (..., B): 1 for a right answer, or the loss or the hits of the right choice.
        Weights (B,): 1, or the tokens of the right choice. Both in float64.
    """
    scores = scores.double()
    if name == "accuracy":
        amounts = (chosen(scores) == batch.gold).double()  # (..., B)
        return amounts, torch.ones(len(batch), dtype=torch.float64, device=batch.gold.device)
    scored = batch.choice_index == batch.gold[batch.item_index]  # (P,)
    tokens = scores.new_zeros(len(batch)).index_add_(0, batch.item_index, scored.double())  # (B,)
    gold = batch.gold[:, None].expand(*scores.shape[:-1], 1)  # (..., B, 1)
    of_gold = scores.gather(-1, gold).squeeze(-1)  # (..., B)
    return of_gold if name == "token_accuracy" else -of_gold, tokens


def metric_estimate(name: MetricName, amounts: Tensor, weights: Tensor) -> Estimate:
    """Value of a metric: a ratio of sums over the items.

    The standard error of a ratio r = sum(y) / sum(w) is that of the mean of y - r w, over mean(w)
    (for accuracy, the harness's `mean_stderr`: sample standard deviation over sqrt(n)).

    Args:
        name: The metric.
        amounts: See `metric_terms`.  # (N,)
        weights: See `metric_terms`.  # (N,)
    """
    n, ratio = len(amounts), amounts.sum() / weights.sum()
    spread = (amounts - ratio * weights).square().sum() / max(n - 1, 1)
    stderr = (spread / n).sqrt() / weights.mean()
    if name != "exp_neg_loss":
        return Estimate(100 * float(ratio), 100 * float(stderr), n)
    value = 100 * float(torch.exp(-ratio))
    return Estimate(value, value * float(stderr), n)


class TaskMetric(Metric):
    """A metric in percent: accuracy, exp(-loss) per token, or token accuracy.

    exp(-loss) is 100 exp(-mean token loss); token accuracy is the share of tokens that are the
    likeliest at their position. Both are over the tokens of all items.

    Args:
        name: Which of them.
    """

    full_state_update = False
    amounts: list[Tensor]
    weights: list[Tensor]

    def __init__(self, name: MetricName):
        super().__init__()
        self.name: MetricName = name
        self.add_state("amounts", default=[], dist_reduce_fx="cat")
        self.add_state("weights", default=[], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the states, also of those that a process without items sends to the others."""
        return torch.float64

    def update(self, scores: Tensor, batch: Batch) -> None:
        """Adds a batch.

        Args:
            scores: What the metric needs of every choice, see `metric_terms`.  # (B, K)
            batch: The items.
        """
        amounts, weights = metric_terms(self.name, scores, batch)
        self.amounts.append(amounts)
        self.weights.append(weights)

    def compute(self) -> Tensor:
        """The value, in [0, 100]."""
        return torch.tensor(self.score().value, dtype=torch.float64)

    def score(self) -> Estimate:
        """The value with its standard error and the number of items."""
        amounts, weights = dim_zero_cat(self.amounts), dim_zero_cat(self.weights)
        return metric_estimate(self.name, amounts.cpu(), weights.cpu())

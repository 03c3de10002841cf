"""Answers of a model to a set of items, and their scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from trimlab.cpu import inference
from trimlab.data.batching import Batch
from trimlab.data.items import Item
from trimlab.evaluation.likelihoods import choice_scores, log_likelihoods
from trimlab.evaluation.metrics import (
    Estimate,
    MetricName,
    TaskMetric,
    chosen,
    length_normalised,
    share,
)
from trimlab.model.sublayers import SublayerStack


@dataclass(frozen=True)
class Answers:
    """Answers of a model, in the order of the items.

    Attributes:
        score: Value, standard error, number of items.
        right: Whether the likeliest choice is the right one.  # (N,)
        gold: Index of the right choice.  # (N,)
        likelihoods: Log-likelihood of every choice, -inf where an item has fewer. Unless they
            were asked for in full, they are upper bounds, exact for the likeliest
            choice. With token accuracy, the hits of every choice instead.  # (N, K)
        tokens: Tokens of every choice, 0 where there is none.  # (N, K)
    """

    score: Estimate
    right: Tensor
    gold: Tensor
    likelihoods: Tensor
    tokens: Tensor

    @property
    def correct(self) -> str:
        """`"1"` for every right answer, `"0"` for every wrong one, in the order of the items."""
        return "".join("01"[right] for right in self.right.int().tolist())


@torch.inference_mode()
def answer(
    stack: SublayerStack,
    batches: Sequence[Batch],
    metric: MetricName = "accuracy",
    full: bool = False,
    progress: bool = False,
    name: str = "evaluate",
) -> Answers:
    """Answers every item.

    Args:
        stack: The model, trimmed or not.
        batches: All items of a set, from `DomainData.evaluation_batches`.
        metric: The task's metric.
        full: Compute the log-likelihood of every choice. Accuracy needs that of the likeliest
            choice only, which costs fewer rows of the LM head.
        progress: Show a bar with the time left.
        name: Label of the bar.

    Returns:
        The answers, on the CPU.
    """

    def scores_of(stack: SublayerStack, part: Batch) -> Tensor:  # (B, K)
        part = part.to(stack.model.device)
        if full and metric == "accuracy":
            return log_likelihoods(stack, part)
        return choice_scores(stack, part, metric)

    with inference(stack) as workers:
        parts = list(batches)
        if stack.model.device.type == "cpu":
            # all workers together compute as many tokens at once as one would
            most = max(batch.input_ids.numel() for batch in batches) // workers.n
            parts = [part for batch in batches for part in batch.parts(most)]
        return answers_of(parts, workers.map(scores_of, parts), metric, progress, name)


def answers_of(
    batches: Sequence[Batch],
    scores: Iterable[Tensor],
    metric: MetricName,
    progress: bool = False,
    name: str = "evaluate",
) -> Answers:
    """Puts the scores of batches into the order of the items.

    Args:
        batches: All items of a set.
        scores: What the metric needs of every choice, batch by batch, see `metric_terms`. # (B, K)
        metric: The task's metric.
        progress: Show a bar with the time left.
        name: Label of the bar.

    Returns:
        The answers, on the CPU.
    """
    total = TaskMetric(metric)
    n, choices = sum(map(len, batches)), max(batch.n_choices for batch in batches)
    likelihoods = torch.full((n, choices), -torch.inf, dtype=torch.float64)
    tokens = torch.zeros((n, choices), dtype=torch.long)
    gold = torch.zeros(n, dtype=torch.long)
    length = sum(batch.input_ids.numel() for batch in batches)
    with tqdm(total=length, desc=name, unit="token", disable=not progress, leave=False) as bar:
        for batch, found in zip(batches, scores, strict=True):
            found = found.cpu()
            total.update(found, batch)
            likelihoods[batch.order, : batch.n_choices] = found.double()
            tokens[batch.order, : batch.n_choices] = batch.choice_tokens
            gold[batch.order] = batch.gold
            bar.update(batch.input_ids.numel())
    return Answers(total.score(), chosen(likelihoods) == gold, gold, likelihoods, tokens)


def evaluate(
    stack: SublayerStack,
    batches: Sequence[Batch],
    metric: MetricName = "accuracy",
    progress: bool = False,
    name: str = "evaluate",
) -> Estimate:
    """Scores a model.

    Args:
        stack: The model, trimmed or not.
        batches: Items, from `DomainData.evaluation_batches`.
        metric: The task's metric.
        progress: Show a bar with the time left.
        name: Label of the bar.

    Returns:
        Value in [0, 100], standard error, number of items.
    """
    return answer(stack, batches, metric, progress=progress, name=name).score


def normalised_score(answers: Answers, items: Sequence[Item]) -> Estimate:
    """Length-normalised accuracy: the answer is the choice likeliest per character.

    The same as lm-evaluation-harness's `acc_norm`: characters (its `acc_bytes` counts bytes),
    without the space before a choice.

    Args:
        answers: Answers in full.
        items: The items, in the same order.

    Returns:
        Percent, with its standard error.
    """
    lengths = torch.zeros_like(answers.tokens)  # (N, K)
    for row, item in zip(lengths, items, strict=True):
        row[: len(item.choices)] = torch.tensor([len(c.removeprefix(" ")) for c in item.choices])
    likelihoods = length_normalised(answers.likelihoods, lengths)  # (N, K)
    return share(chosen(likelihoods) == answers.gold)

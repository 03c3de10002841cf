"""Answers of a model in an engine, from the log-likelihoods that the engine itself computes.

An engine has no tree masks: every choice is a text of its own, with the context before it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.engines._engine import LoadedModel
from trimlab.evaluation.answers import Answers, answers_of
from trimlab.evaluation.metrics import MetricName


def engine_answers(
    model: LoadedModel,
    batches: Sequence[Batch],
    metric: MetricName = "accuracy",
    progress: bool = False,
    name: str = "evaluate",
) -> Answers:
    """Answers every item in an engine.

    Args:
        model: The model in its engine.
        batches: All items of a set, from `DomainData.evaluation_batches`.
        metric: The task's metric.
        progress: Show a bar with the time left.
        name: Label of the bar.

    Returns:
        The answers, with the log-likelihood of every choice.
    """
    scores = (_scores(model, batch, metric) for batch in batches)
    return answers_of(batches, scores, metric, progress, name)


def _scores(model: LoadedModel, batch: Batch, metric: MetricName) -> Tensor:
    """Log-likelihood or hits of every choice, -inf where an item has fewer.  # (B, K)"""
    scores = torch.full((len(batch), batch.n_choices), -torch.inf, dtype=torch.float64)
    for item in range(len(batch)):
        for choice in range(batch.n_choices):
            scored = (batch.item_index == item) & (batch.choice_index == choice)  # (P,)
            if bool(scored.any()):
                scores[item, choice] = _score(model, batch, item, choice, scored, metric)
    return scores


def _score(
    model: LoadedModel, batch: Batch, item: int, choice: int, scored: Tensor, metric: MetricName
) -> float:
    """Log-likelihood of a choice, or the number of its tokens that are the likeliest."""
    tree = batch.continuations[item]  # (T,)
    of_choice = (tree == 0) | (tree == choice + 1)  # (T,)
    ids, targets = batch.input_ids[item, of_choice], batch.targets[scored]  # (t,), (p,)
    # from places in the tree to places in the text of this choice
    at = of_choice.cumsum(0)[batch.logit_index[scored]] - 1  # (p,)
    first = int(at[0])
    if metric == "token_accuracy":
        likeliest = model.logits(ids[None], first)[0].argmax(-1)  # (t - first,)
        return float((likeliest[at - first] == targets).sum())
    text = torch.cat([ids, targets[-1:]])[None]  # (1, t + 1)
    return float(model.log_probs(text, first + 1)[at - first].double().sum())

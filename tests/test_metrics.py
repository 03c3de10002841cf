"""Both measures and their standard errors, worked by hand."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimlab.choices import Batch, EncodedItem, collate
from trimlab.metrics import MetricName, Score, TaskScore


def batch_of(golds: list[int], tokens: list[int], n_choices: int = 2) -> Batch:
    """Items whose right choice has the given number of tokens, and each other choice 5."""
    items = []
    for gold, count in zip(golds, tokens, strict=True):
        owners = [k for k in range(n_choices) for _ in range(count if k == gold else 5)]
        blank = (0,) * len(owners)
        items.append(EncodedItem(blank, blank, blank, blank, blank, tuple(owners), gold))
    return collate(items)


def score(name: MetricName, *updates: tuple[torch.Tensor, Batch]) -> Score:
    metric = TaskScore(name)
    for likelihoods, batch in updates:
        metric.update(likelihoods, batch)
    assert float(metric.compute()) == metric.score().value
    return metric.score()


def test_accuracy_by_hand() -> None:
    # right, wrong, right, right: 75 %; deviations 1/4, 3/4, 1/4, 1/4; variance (3/4) / 3
    likelihoods = torch.tensor([[-1.0, -2.0], [-1.0, -2.0], [-3.0, -2.0], [-1.0, -torch.inf]])
    result = score("accuracy", (likelihoods, batch_of([0, 1, 1, 0], [1, 1, 1, 1])))
    assert result == Score(75, pytest.approx(100 * math.sqrt(0.25 / 4)), 4)


def test_likelihood_by_hand() -> None:
    # losses 2 and 1 over 2 tokens each: mean 3/4; residuals 1/2 and -1/2; variance 1/2;
    # standard error of the mean loss sqrt((1/2) / 2) / 2 = 1/4
    likelihoods = torch.tensor([[-2.0, -9.0], [-0.1, -1.0]])
    result = score("likelihood", (likelihoods, batch_of([0, 1], [2, 2])))
    value = 100 * math.exp(-0.75)
    assert result == Score(pytest.approx(value), pytest.approx(value / 4), 2)


def test_likelihood_is_over_tokens_not_over_items() -> None:
    # 1 token with loss 3 and 9 tokens with loss 3 in all: 6 over 10 tokens
    likelihoods = torch.tensor([[-3.0, -9.0], [-3.0, -9.0]], dtype=torch.float64)
    result = score("likelihood", (likelihoods, batch_of([0, 0], [1, 9])))
    assert result.value == pytest.approx(100 * math.exp(-0.6), rel=1e-12)


@given(right=st.lists(st.booleans(), min_size=2, max_size=30), data=st.data())
def test_accuracy_is_the_mean_and_its_error_the_sample_deviation(
    right: list[bool], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(right)))
    likelihoods = torch.tensor([[0.0, -1.0] if r else [-1.0, 0.0] for r in right])
    halves = [part for part in likelihoods.split([cut, len(right) - cut]) if len(part)]
    parts = [(half, batch_of([0] * len(half), [1] * len(half))) for half in halves]
    result = score("accuracy", *parts)
    percent = [100.0 * r for r in right]
    assert result.value == pytest.approx(statistics.mean(percent))
    assert result.stderr == pytest.approx(statistics.stdev(percent) / math.sqrt(len(right)))
    assert result.n == len(right)


def test_one_item_has_no_spread_and_no_nan() -> None:
    result = score("accuracy", (torch.tensor([[0.0, -1.0]]), batch_of([0], [1])))
    assert result == Score(100, 0, 1)


def test_float32_likelihoods_are_summed_in_float64() -> None:
    likelihoods = torch.tensor([[-0.1, -9.0], [-1000.3, -9.0], [-7.7, -9.0]])
    result = score("likelihood", (likelihoods, batch_of([0, 0, 0], [700, 200, 100])))
    mean_loss = -sum(likelihoods[:, 0].tolist()) / 1000
    assert result.value == pytest.approx(100 * math.exp(-mean_loss), rel=1e-12)

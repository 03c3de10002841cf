"""Both measures and their standard errors, worked by hand."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import EncodedItem
from trimlab.evaluation.metrics import (
    Estimate,
    MetricName,
    TaskMetric,
    chosen,
    length_normalised,
    perplexities,
    stability,
)


def batch_of(golds: list[int], tokens: list[int], n_choices: int = 2) -> Batch:
    """Items whose right choice has the given number of tokens, and each other choice 5."""
    items = []
    for gold, count in zip(golds, tokens, strict=True):
        choice_index = [k for k in range(n_choices) for _ in range(count if k == gold else 5)]
        blank = (0,) * len(choice_index)
        items.append(EncodedItem(blank, blank, blank, blank, blank, tuple(choice_index), gold))
    return collate(items)


def score(name: MetricName, *updates: tuple[torch.Tensor, Batch]) -> Estimate:
    metric = TaskMetric(name)
    for likelihoods, batch in updates:
        metric.update(likelihoods, batch)
    assert float(metric.compute()) == metric.score().value
    return metric.score()


def test_accuracy_by_hand() -> None:
    # right, wrong, right, right: 75 %; deviations 1/4, 3/4, 1/4, 1/4; variance (3/4) / 3
    likelihoods = torch.tensor([[-1.0, -2.0], [-1.0, -2.0], [-3.0, -2.0], [-1.0, -torch.inf]])
    result = score("accuracy", (likelihoods, batch_of([0, 1, 1, 0], [1, 1, 1, 1])))
    assert result == Estimate(75, pytest.approx(100 * math.sqrt(0.25 / 4)), 4)


def test_likelihood_by_hand() -> None:
    # losses 2 and 1 over 2 tokens each: mean 3/4; residuals 1/2 and -1/2; variance 1/2;
    # standard error of the mean loss sqrt((1/2) / 2) / 2 = 1/4
    likelihoods = torch.tensor([[-2.0, -9.0], [-0.1, -1.0]])
    result = score("exp_neg_loss", (likelihoods, batch_of([0, 1], [2, 2])))
    value = 100 * math.exp(-0.75)
    assert result == Estimate(pytest.approx(value), pytest.approx(value / 4), 2)


def test_token_accuracy_by_hand() -> None:
    # 1 hit of 2 tokens and 6 of 8, the right choices of two: 7 of 10 tokens, not (1/2 + 3/4) / 2;
    # residuals 1 - 0.7 * 2 and 6 - 0.7 * 8: -0.4 and 0.4; variance 0.32; over mean weight 5
    hits = torch.tensor([[1.0, 5.0], [5.0, 6.0]])
    result = score("token_accuracy", (hits, batch_of([0, 1], [2, 8])))
    assert result == Estimate(pytest.approx(70), pytest.approx(100 * math.sqrt(0.32 / 2) / 5), 2)


def test_likelihood_is_over_tokens_not_over_items() -> None:
    # 1 token with loss 3 and 9 tokens with loss 3 in all: 6 over 10 tokens
    likelihoods = torch.tensor([[-3.0, -9.0], [-3.0, -9.0]], dtype=torch.float64)
    result = score("exp_neg_loss", (likelihoods, batch_of([0, 0], [1, 9])))
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


def test_what_is_not_a_number_is_no_answer() -> None:
    """argmax takes a NaN, and a model that answers nothing would be right now and then."""
    likelihoods = torch.tensor([[-1.0, torch.nan], [torch.nan, -2.0], [-1.0, -2.0]])
    assert chosen(likelihoods).tolist() == [-1, -1, 0]
    score = TaskMetric("accuracy")
    score.update(likelihoods, batch_of([1, 0, 0], [1, 1, 1]))
    assert score.score().value == pytest.approx(100 / 3)


def test_one_item_has_no_spread_and_no_nan() -> None:
    result = score("accuracy", (torch.tensor([[0.0, -1.0]]), batch_of([0], [1])))
    assert result == Estimate(100, 0, 1)


def test_float32_likelihoods_are_summed_in_float64() -> None:
    likelihoods = torch.tensor([[-0.1, -9.0], [-1000.3, -9.0], [-7.7, -9.0]])
    result = score("exp_neg_loss", (likelihoods, batch_of([0, 0, 0], [700, 200, 100])))
    mean_loss = -sum(likelihoods[:, 0].tolist()) / 1000
    assert result.value == pytest.approx(100 * math.exp(-mean_loss), rel=1e-12)


# ---- functions of log-likelihoods ---------------------------------------------------------------

NONE = -torch.inf  # an item that has fewer choices


def test_length_normalised_by_hand() -> None:
    likelihoods = torch.tensor([[-6.0, -4.0, NONE], [-3.0, -2.0, -1.0]])
    lengths = torch.tensor([[6, 2, 0], [3, 1, 4]])
    expected = torch.tensor([[-1.0, -2.0, NONE], [-1.0, -2.0, -0.25]])
    torch.testing.assert_close(length_normalised(likelihoods, lengths), expected)


@given(st.lists(st.tuples(st.floats(-50, -0.1), st.text(min_size=1)), min_size=2, max_size=5))
def test_length_normalised_chooses_as_the_harness(choices: list[tuple[float, str]]) -> None:
    task = pytest.importorskip("lm_eval.api.task").ConfigurableTask
    harness = task.__new__(task)  # without the data set that a real one loads
    harness._config = task_config = pytest.importorskip("lm_eval.api.task").TaskConfig()
    task_config.process_results = None
    harness.OUTPUT_TYPE = "multiple_choice"
    harness._metric_fn_list = {"acc_norm": None}
    harness.multiple_input = harness.multiple_target = 0
    harness.doc_to_choice = lambda _: [text for _, text in choices]
    likelihoods = torch.tensor([[value for value, _ in choices]], dtype=torch.float64)
    lengths = torch.tensor([[len(text) for _, text in choices]])
    chosen = int(length_normalised(likelihoods, lengths).argmax())
    harness.doc_to_target = lambda _: chosen
    result = harness.process_results({}, [(value, False) for value, _ in choices])
    assert result["acc_norm"] == 1


def test_perplexities_by_hand() -> None:
    likelihoods = torch.tensor([[-math.log(8.0), -math.log(5.0), NONE]])
    expected = torch.tensor([[2.0, 5.0, torch.inf]])
    torch.testing.assert_close(perplexities(likelihoods, torch.tensor([[3, 1, 0]])), expected)


def _log_likelihoods(*rows: list[float]) -> torch.Tensor:
    """Log-likelihoods of one-token choices with the given perplexities."""
    return -torch.tensor(rows, dtype=torch.float64).log()


def test_stability_by_hand() -> None:
    # standard deviations 1, 2 and 0: weights e, e^2 and 1 over their sum
    original = _log_likelihoods([2, 4], [3, 7], [5, 5])
    tokens = torch.ones(3, 2, dtype=torch.long)
    gold = torch.tensor([0, 1, 0])  # right, wrong, right (the first of two equals)
    total = math.e + math.e**2 + 1
    for compressed, kept in [
        (original, total),
        (_log_likelihoods([9, 4], [3, 7], [1, 5]), math.e**2 + 1),  # the first became wrong
        (_log_likelihoods([2, 4], [8, 7], [6, 5]), math.e),  # the second right, the third wrong
        (_log_likelihoods([9, 4], [8, 7], [6, 5]), 0.0),
    ]:
        found = stability(original, compressed, tokens, gold)
        assert found.item() == pytest.approx(kept / total, rel=1e-12)


def test_stability_is_of_the_choices_that_an_item_has() -> None:
    two = _log_likelihoods([2, 4], [3, 7])
    three = torch.cat([two, torch.full((2, 1), NONE)], -1)
    changed = _log_likelihoods([5, 4], [3, 7])
    gold, tokens = torch.tensor([0, 0]), torch.tensor([[1, 1, 0], [1, 1, 0]])
    padded = torch.cat([changed, torch.full((2, 1), NONE)], -1)
    expected = stability(two, changed, tokens[:, :2], gold)
    assert stability(three, padded, tokens, gold) == expected
    assert expected.item() == pytest.approx(math.e**2 / (math.e + math.e**2))


def test_stability_weighs_perplexities_by_token() -> None:
    # perplexities 2 and 4 again, of two and three tokens: as one-token choices
    original = torch.tensor([[-2 * math.log(2), -3 * math.log(4)], [-math.log(3), -math.log(7)]])
    compressed = torch.tensor([[-9.0, -1.0], [-math.log(3), -math.log(7)]])
    tokens = torch.tensor([[2, 3], [1, 1]])
    found = stability(original, compressed, tokens, torch.tensor([0, 0]))
    assert found.item() == pytest.approx(math.e**2 / (math.e + math.e**2))

"""Whether a trimmed model is worse than what it came from is said, and how clearly."""

import pytest

from trimlab.records.lost_accuracy import ADVICE, difference, lost_accuracy
from trimlab.records.model_result import TaskResult


def score(correct: str) -> TaskResult:
    value = 100 * correct.count("1") / len(correct)
    return TaskResult(metric="accuracy", value=value, stderr=2.0, n=len(correct), correct=correct)


def without_answers(value: float, stderr: float) -> TaskResult:
    return TaskResult(metric="exp_neg_loss", value=value, stderr=stderr, n=50, correct=None)


def test_the_standard_error_is_paired() -> None:
    found = difference(score("1100"), score("1010"))
    assert found.value == 0
    # differences of 0, 100, -100 and 0 points: variance 20000 / 3, over 4 items
    assert found.stderr == pytest.approx((20000 / 3 / 4) ** 0.5)


def test_without_answers_the_two_standard_errors_add_up() -> None:
    found = difference(without_answers(40.0, 3.0), without_answers(50.0, 4.0))
    assert found == (-10.0, 5.0)
    assert str(found) == "\N{MINUS SIGN}10.0 ± 5.0 points"
    assert not found.is_clear  # two standard errors exactly


GOOD, LESS, LEAST = "1" * 90 + "0" * 10, "1" * 70 + "0" * 30, "1" * 40 + "0" * 60


def test_a_model_that_keeps_its_score_goes_unmentioned() -> None:
    assert lost_accuracy(score(GOOD), score(LEAST), score("1" * 95 + "0" * 5)) == []
    assert lost_accuracy(score(GOOD), None, None) == []
    # 20 of 22: below nine tenths of 22 of 22, and within two standard errors
    assert lost_accuracy(score("1" * 19 + "000"), None, score("1" * 22)) == []


def test_a_model_below_the_fine_tuned_one_is_called_so() -> None:
    said = lost_accuracy(score(LESS), score(LEAST), score(GOOD))
    assert said == [
        (
            "The trimmed model keeps 77.8 % of the score of the model fine-tuned at full depth: "
            "\N{MINUS SIGN}20.0 ± 4.0 points."
        ),
        ADVICE,
    ]


def test_a_model_below_the_untrimmed_one_is_called_so() -> None:
    worse, advice = lost_accuracy(score(LEAST), score(LESS), None)
    assert worse.startswith("The trimmed model is worse than the untrimmed one: ")
    assert advice == ADVICE
    unclear = "0" + "1" * 69 + "0" * 30
    assert lost_accuracy(score(unclear), score(LESS), None)[0].startswith(
        "The trimmed model is not better than the untrimmed one: "
    )

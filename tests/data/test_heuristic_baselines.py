"""The baselines that use no model."""

import pytest

from trimlab.data.heuristic_baselines import (
    majority_accuracy,
    stems,
    word_overlap,
    word_overlap_accuracy,
)
from trimlab.data.items import Item


def _item(gold: int, *choices: str, context: str = "Question: why?") -> Item:
    return Item(context, choices or (" a1", " b1", " c1", " d1"), gold)


def test_stems_ignore_case_endings_stop_words_and_punctuation():
    assert stems("The Fractures of (the) FEMUR, unspecified") == stems("femur/fracture")
    assert stems("of the and") == set()
    assert stems("Gastritis") == stems("gastric")


def test_word_overlap_takes_the_choice_that_shares_most_words():
    prompt = "Question: Which category covers acute fracture of the femur?\nAnswer:"
    assert word_overlap(prompt, (" Open wound", " Fractured femurs", " Acute pain")) == 1


def test_word_overlap_takes_the_first_of_equals():
    assert word_overlap("Question: why?", (" x1", " y1")) == 0
    assert word_overlap("red blue", (" green", " blue", " red")) == 1


def test_word_overlap_counts_a_word_once():
    assert word_overlap("pain in the arm", (" pain pain pain", " arm pain")) == 1


def test_word_overlap_accuracy_is_in_percent():
    easy = _item(1, " wrong", " right", context="right")
    hard = _item(0, " wrong", " right", context="right")
    assert word_overlap_accuracy([easy, easy, easy, hard]) == 75


def test_majority_is_learnt_on_train_and_measured_on_test():
    train = [_item(2), _item(2), _item(0)]
    assert majority_accuracy(train, [_item(2), _item(0), _item(0), _item(1)]) == 25


def test_majority_breaks_ties_by_position():
    assert majority_accuracy([_item(3), _item(1)], [_item(1), _item(3), _item(1)]) == pytest.approx(
        200 / 3
    )


def test_a_position_that_never_varies_is_no_knowledge():
    train = [_item(3)] * 5
    assert majority_accuracy(train, [_item(3), _item(3, " yes", " no", " so", " ma")]) == 25


def test_answers_to_learn_say_nothing_about_positions():
    learnt = [_item(0, " a loan")] * 9
    test = [_item(2), _item(0), _item(0), _item(0)]
    assert majority_accuracy([*learnt, _item(2), _item(2), _item(0)], test) == 25
    assert majority_accuracy(learnt, test) == majority_accuracy([_item(3)], test)

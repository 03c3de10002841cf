"""The embedded task, ICD-10-CM: its questions are not answered by their form."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.examples import all_items
from trimlab.data.heuristic_baselines import majority_accuracy, word_overlap_accuracy
from trimlab.data.items import Item
from trimlab.data.splits import RowSets, read_row_sets
from trimlab.data.task import load_task

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def icd() -> RowSets:
    return read_row_sets(load_task("icd10cm"), None, None, 100, 250)


def test_has_enough_questions(icd: RowSets):
    assert len(icd.train) >= 1000 and len(icd.test) >= 450
    assert sum(icd.dropped.values()) == 0


def test_choices_are_four_short_different_titles(icd: RowSets):
    for item in all_items(icd):
        assert len({choice.casefold() for choice in item.choices}) == 4
        assert all(len(choice) <= 33 and len(choice.split()) <= 4 for choice in item.choices)
        assert item.context.startswith("Question: Which category covers ")


def test_no_choice_of_a_test_question_was_an_answer_in_training(icd: RowSets):
    answers = {item.choices[item.gold].casefold() for item in icd.train}
    for item in (*icd.test, *icd.dev, *icd.calibration):
        assert not answers & {choice.casefold() for choice in item.choices}


def test_no_answer_rules(icd: RowSets):
    for name in ("train", "test"):
        items = getattr(icd, name)
        assert max(Counter(item.choices[item.gold] for item in items).values()) < len(items) / 30


def _grams(text: str, n: int = 3) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def _shared_grams(item: Item, choice: str) -> float:
    question = _grams(item.context.casefold().removeprefix("question: which category covers "))
    return len(question & _grams(choice.casefold())) / len(choice)


def test_is_not_answered_by_its_form(icd: RowSets):
    chance, near = 25, 3
    assert abs(word_overlap_accuracy(icd.test) - chance) <= near
    assert abs(word_overlap_accuracy(icd.train) - chance) <= near
    assert abs(majority_accuracy(icd.train, icd.test) - chance) <= near

    def accuracy(score: Callable[[Item, str], float]) -> float:
        def best(item: Item) -> int:
            return max(range(4), key=lambda i: score(item, item.choices[i]))

        return 100 * sum(best(item) == item.gold for item in icd.test) / len(icd.test)

    assert abs(accuracy(lambda _, choice: len(choice)) - chance) <= 2 * near
    assert abs(accuracy(lambda _, choice: -len(choice)) - chance) <= 2 * near
    assert abs(accuracy(_shared_grams) - chance) <= 4 * near


# without the package, and then with it
READ = """
import sys
from trimlab.data.splits import read_row_sets
from trimlab.data.task import load_task
from trimlab.errors import InputError

def read():
    return read_row_sets(load_task("icd10cm"), None, None, 100, 250).fingerprints()

sys.modules["simple_icd_10_cm"] = None
try:
    read()
except InputError as error:
    print(error)
del sys.modules["simple_icd_10_cm"]
print(read())
"""


def test_is_the_same_in_every_process_and_says_what_to_install(icd: RowSets):
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env={**os.environ, "PYTHONHASHSEED": "1"},  # this process has another
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    without, with_it = done.stdout.splitlines()
    assert "pip install 'trimlab[embedded]'" in without
    assert with_it == str(icd.fingerprints())


def test_the_row_sets_are_those_on_record():
    sets = read_row_sets(load_task("icd10cm"), None)
    assert sets.counts() == {"train": 1074, "calibration": 50, "dev": 100, "test": 479}
    assert sets.fingerprints() == {
        "train": "4b468e9fa5c93edb",
        "calibration": "654b62bce2653729",
        "dev": "e7d3d6b145ce2303",
        "test": "242aa6be4d1b11f8",
    }

"""The embedded task on chapters of ICD-10-CM: balanced, and not answered by its form."""

from collections import Counter

import pytest

from tests.data.examples import all_items
from trimlab.data.heuristic_baselines import (
    longest_choice_accuracy,
    majority_accuracy,
    word_overlap_accuracy,
)
from trimlab.data.splits import RowSets, read_row_sets
from trimlab.data.task import load_task
from trimlab.data.tasks._icd10cm import classification, diagnoses


@pytest.fixture(scope="module")
def chapters() -> RowSets:
    return read_row_sets(load_task("icd10_chapters"), None, None, 100, 250)


def test_has_enough_questions_of_every_chapter(chapters: RowSets):
    answers = Counter(item.choices[item.gold] for item in chapters.test)
    assert len(chapters.train) >= 3000 and len(chapters.test) >= 1200
    assert len(answers) == 20 and len({*answers.values()}) == 1
    assert sum(chapters.dropped.values()) == 0
    for item in all_items(chapters):
        assert len({*item.choices}) == 5
        assert item.context.startswith('Question: Which chapter of ICD-10-CM covers "')
        assert not any("(" in choice for choice in item.choices)  # the range of a chapter


def test_is_not_answered_by_its_form(chapters: RowSets):
    chance, near = 20, 2
    assert abs(word_overlap_accuracy(chapters.test) - chance) <= near
    assert abs(majority_accuracy(chapters.train, chapters.test) - chance) <= near
    assert abs(longest_choice_accuracy(chapters.test) - chance) <= near


def test_no_category_of_a_test_question_was_seen_in_training(chapters: RowSets):
    icd = classification()
    categories: dict[str, set[str]] = {}
    for code in icd.get_all_codes():
        if icd.is_category(code):
            for name in diagnoses(code):
                categories.setdefault(name, set()).add(code)

    def seen(items) -> set[str]:
        found = [categories[item.context.split('"', 1)[1].rsplit('"', 1)[0]] for item in items]
        assert all(len(codes) == 1 for codes in found)  # a diagnosis of two has no one answer
        return set().union(*found)

    held_out = (*chapters.test, *chapters.dev, *chapters.calibration)
    assert not seen(chapters.train) & seen(held_out)
    assert not seen(chapters.test) & seen((*chapters.dev, *chapters.calibration))


def test_the_answer_is_the_chapter_of_the_diagnosis(chapters: RowSets):
    item = next(i for i in chapters.train if "Tuberculosis" in i.context)
    assert item.choices[item.gold] == " Certain infectious and parasitic diseases"

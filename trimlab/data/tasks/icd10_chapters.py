"""ICD-10-CM: which of five chapters of the classification covers a diagnosis. Needs no hub.

Source: see `_icd10cm.py`. The diagnoses are those of one category only, at most `PER_CATEGORY` of
each; the wrong choices are four other chapters. Questions are discarded if the title of the right
chapter shares a word with the diagnosis, and so are wrong choices, so that word overlap answers
none. Words of three or more titles ("diseases", "certain") are no overlap.

Splits: the categories of a chapter are divided into train, validation and test, so that no category
of a test question was seen in training. In every split each chapter is the answer equally often:
injuries and external causes are most of the classification. Chapters with few diagnoses (the ear,
special purposes) are left out. Calibration and dev are carved from validation.
"""

import re
from collections import Counter
from functools import cache

from trimlab.data.heuristic_baselines import stems
from trimlab.data.rows import Row
from trimlab.data.tasks._icd10cm import (
    ICD10Task,
    classification,
    diagnoses,
    is_copy,
    rank,
    rows_of,
)

CHOICES = 5
PER_CATEGORY = 14  # most questions about the diagnoses of one category
FEWEST = 200  # questions of a chapter; the smallest one decides how many all others have
SPLITS = {"test": 0.25, "validation": 0.15, "train": 0.6}
COMMON = 3  # a stem in so many titles tells nothing


class ICD10Chapters(ICD10Task):
    r"""`Question: Which chapter of ICD-10-CM covers "{diagnosis}"?\nAnswer:` -> ` {title}`."""

    def questions(self) -> dict[str, list[Row]]:
        """Those with titles of chapters as choices."""
        return _questions()


@cache
def _questions() -> dict[str, list[Row]]:
    """The questions by split, the same on every machine."""
    titles = _titles()
    common = Counter(stem for title in titles.values() for stem in stems(title))
    telling = {
        title: {stem for stem in stems(title) if common[stem] < COMMON} for title in titles.values()
    }
    covered = {title: _diagnoses(chapter) for chapter, title in titles.items()}
    uses = Counter(
        name.casefold() for names in covered.values() for found in names.values() for name in found
    )
    by_split: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for title, categories in covered.items():
        asked = {
            category: _asked(
                [n for n in names if uses[n.casefold()] == 1 and not stems(n) & telling[title]]
            )
            for category, names in categories.items()
        }
        if sum(map(len, asked.values())) >= FEWEST:
            for split, names in _divided(asked).items():
                by_split[split][title] = names
    return {split: _rows(split, by_title, telling) for split, by_title in by_split.items()}


def _titles() -> dict[str, str]:
    """Chapters by code, without their ranges."""
    icd = classification()
    return {
        code: re.sub(r"( \([A-Z0-9-]+\)|, not elsewhere classified)", "", icd.get_description(code))
        for code in icd.get_all_codes()
        if icd.is_chapter(code)
    }


def _diagnoses(chapter: str) -> dict[str, list[str]]:
    """The diagnoses of each category of a chapter."""
    icd = classification()
    return {code: diagnoses(code) for code in icd.get_descendants(chapter) if icd.is_category(code)}


def _divided(asked: dict[str, list[str]]) -> dict[str, list[str]]:
    """The diagnoses of a chapter by split: each category goes where most is missing."""
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    total = sum(map(len, asked.values()))
    for category in sorted(asked, key=rank):
        missing = {split: share * total - len(by_split[split]) for split, share in SPLITS.items()}
        by_split[max(missing, key=lambda split: missing[split])] += asked[category]
    return by_split


def _asked(names: list[str]) -> list[str]:
    """The diagnoses of a category that are asked about: left and right are one question."""
    asked: list[str] = []
    for name in sorted(names, key=rank):
        words = stems(name)
        if words and not is_copy(words, map(stems, asked)):
            asked.append(name)
    return asked[:PER_CATEGORY]


def _rows(split: str, by_title: dict[str, list[str]], telling: dict[str, set[str]]) -> list[Row]:
    """The questions of a split as rows, in a fixed order.

    Args:
        split: Name of the split.
        by_title: The diagnoses of each chapter.
        telling: The stems of each chapter's title that tell it from others.
    """
    each = min(map(len, by_title.values()))
    pairs = [
        (name, title)
        for title, names in by_title.items()
        for name in sorted(names, key=rank)[:each]
    ]
    questions = []
    for name, title in sorted(pairs, key=lambda pair: rank(*pair)):
        others = [t for t in by_title if t != title and not stems(name) & telling[t]]
        wrong = sorted(others, key=lambda other: rank(name, other))[: CHOICES - 1]
        text = f'Which chapter of ICD-10-CM covers "{name}"?'
        questions.append((text, title, wrong))
    return rows_of(f"icd10_chapters {split}", questions, CHOICES)

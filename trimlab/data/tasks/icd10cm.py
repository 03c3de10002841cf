"""ICD-10-CM: the category of the classification that covers a diagnosis. Needs no hub.

Source: the tabular list of ICD-10-CM (public domain; April 2026 in version 1.5.0) in the PyPI
package `simple-icd-10-cm` (MIT). A question names a diagnosis; the choices are four short category
titles. The wrong ones come from the same block of the classification or, where the block has too
few, from the same chapter. Questions are discarded if a choice shares a word, or a run of five
letters, with the diagnosis, so that word overlap answers none.

Splits: categories are divided into train, validation and test by a hash of their short title, and
all four choices of a question are from its own split. No choice of a test question is therefore an
answer in training. Calibration and dev are carved from validation.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache

from trimlab.data.heuristic_baselines import stems
from trimlab.data.rows import Row
from trimlab.data.tasks._icd10cm import (
    NOT_A_NAME,
    ICD10Task,
    capital,
    classification,
    diagnoses,
    is_copy,
    rank,
    rows_of,
)

CHOICES = 4
PER_TITLE = 14  # most questions with one title as the answer
TITLE_LETTERS, TITLE_WORDS = 24, 3  # limits: the cost of the LM head grows with the answer tokens
RUN = 5  # length of the runs of letters that a diagnosis and a choice may not share
SPLITS = {"test": 0.28, "validation": 0.22, "train": 0.5}
LINKS = "of|to|with|by|involving|for|in|on|due|from|at|and|or|without"


class ICD10CM(ICD10Task):
    r"""`Question: Which category covers {diagnosis}?\nAnswer:` -> ` {category title}`."""

    def questions(self) -> dict[str, list[Row]]:
        """Those with short category titles as choices."""
        return _questions()


@dataclass(frozen=True)
class _Category:
    """A category that can be an answer, with its short title."""

    code: str
    title: str
    block: str
    chapter: str
    split: str


@dataclass(frozen=True)
class _Question:
    """A question about one diagnosis, given by its stems."""

    text: str
    stems: frozenset[str]
    answer: str
    distractors: list[str]


@cache
def _questions() -> dict[str, list[Row]]:
    """The questions by split, the same on every machine."""
    categories = _categories()
    covered = {category: diagnoses(category.code) for category in categories}
    uses = Counter(name.casefold() for names in covered.values() for name in names)
    near: dict[tuple[str, str], list[_Category]] = defaultdict(list)
    for category in categories:
        near[category.split, category.chapter].append(category)
    by_answer: dict[str, list[_Question]] = defaultdict(list)
    by_split: dict[str, list[_Question]] = defaultdict(list)
    for gold in categories:
        names = [name for name in covered[gold] if uses[name.casefold()] == 1]
        asked = by_answer[gold.title]
        found = _questions_of(gold, names, near[gold.split, gold.chapter], asked)
        asked += found
        by_split[gold.split] += found
    return {split: _rows(split, questions) for split, questions in by_split.items()}


def _questions_of(
    gold: _Category, names: list[str], near: list[_Category], asked: list[_Question]
) -> list[_Question]:
    """The questions with one category as the answer.

    Args:
        gold: The category.
        names: Diagnoses that no other category covers.
        near: Categories of the same split and chapter.
        asked: Questions so far with the same title as the answer.
    """
    found: list[_Question] = []
    for name in sorted(names, key=lambda name: rank(gold.code, name)):
        before = [*asked, *found]
        if len(before) == PER_TITLE:
            break
        text, words = f"Which category covers {name}?", stems(name)
        if is_copy(words, (other.stems for other in before)) or _tells(text, gold.title):
            continue
        distractors = _distractors(gold, text, near)
        if len(distractors) == CHOICES - 1:
            found.append(_Question(text, words, gold.title, distractors))
    return found


def _rows(split: str, questions: list[_Question]) -> list[Row]:
    """The questions as rows, in a fixed order."""
    ordered = sorted(questions, key=lambda q: rank(q.text, q.answer))
    found = ((q.text, q.answer, q.distractors) for q in ordered)
    return rows_of(f"icd10cm {split}", found, CHOICES)


def _distractors(gold: _Category, question: str, near: list[_Category]) -> list[str]:
    """Titles without overlap with the question or another choice, of the same block first."""
    order = sorted(near, key=lambda c: (c.block != gold.block, rank(question, c.code)))
    wrong: list[str] = []
    for category in order:
        nested = any(
            stems(category.title) <= stems(title) or stems(title) <= stems(category.title)
            for title in (gold.title, *wrong)
        )
        if not nested and not _tells(question, category.title):
            wrong.append(category.title)
            if len(wrong) == CHOICES - 1:
                break
    return wrong


def _tells(question: str, title: str) -> bool:
    """Whether a choice shares a stem or a run of letters with the question."""
    return bool(stems(question) & stems(title)) or bool(_runs(question) & _runs(title))


@cache
def _runs(text: str) -> frozenset[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return frozenset(w[i : i + RUN] for w in words for i in range(len(w) - RUN + 1))


def _categories() -> list[_Category]:
    """The categories that can be answers."""
    icd = classification()
    categories = []
    for chapter in (code for code in icd.get_all_codes() if icd.is_chapter(code)):
        blocks: dict[str, list[str]] = defaultdict(list)
        for code in icd.get_descendants(chapter):
            if icd.is_category(code):
                blocks[icd.get_parent(code)].append(code)
        for block, codes in blocks.items():
            titles = _short_titles({code: icd.get_description(code) for code in codes})
            for code, title in titles.items():
                if _is_answer(title, [titles[other] for other in codes if other != code]):
                    categories.append(_Category(code, title, block, chapter, _split(title)))
    return categories


def _is_answer(title: str, siblings: list[str]) -> bool:
    """Whether a title is short and specific, and covers none of its siblings."""
    return (
        len(title) <= TITLE_LETTERS
        and len(title.split()) <= TITLE_WORDS
        and bool(stems(title))
        and not NOT_A_NAME.search(title)
        and not re.search(rf"\b({LINKS})$|,", title)
        and not any(stems(title) <= stems(sibling) for sibling in siblings)
    )


def _split(title: str) -> str:
    """The split of the categories with a title."""
    place = int(rank("split", title.casefold())[:8], 16) / 2**32
    for split, share in SPLITS.items():
        place -= share
        if place < 0:
            return split
    return next(reversed(SPLITS))  # the shares' sum may fall short of 1 by rounding


def _short_titles(titles: dict[str, str]) -> dict[str, str]:
    """Shortens the titles of a block to their distinctive part.

    Dropped are brackets, "Other", "not elsewhere classified", and beginnings and ends that a third
    of the titles share: "Malignant neoplasm of stomach" becomes "Stomach", and "Open wound of
    thorax" becomes "Open wound".

    Args:
        titles: Titles of the categories of a block, by code.
    """
    short = {code: _plain(title) for code, title in titles.items()}
    enough = max(2, len(short) / 3)
    for parts in (_beginnings, _ends):
        uses = Counter(part for title in short.values() for part in parts(title))
        for code, title in short.items():
            shared = [part for part in parts(title) if uses[part] >= enough]
            if shared:
                longest = max(shared, key=len)
                short[code] = (
                    title.removeprefix(longest)
                    if parts is _beginnings
                    else title.removesuffix(longest)
                )
    return {code: capital(title.strip(" ,")) for code, title in short.items()}


def _beginnings(title: str) -> list[str]:
    return [title[: m.end()] for m in re.finditer(rf" ({LINKS}) (the )?", title)]


def _ends(title: str) -> list[str]:
    return [title[m.start() :] for m in re.finditer(rf" ({LINKS}) |, ", title)]


def _plain(text: str) -> str:
    """A title without brackets, "Other" and "not elsewhere classified"."""
    text = re.sub(r"\s*(\[[^]]*\]|\([^)]*\))", "", text)
    text = re.sub(r",? (not elsewhere|in diseases|classified|unspecified|NOS|NEC)\b.*", "", text)
    text = re.sub(r"^((other|unspecified|specified|certain|and) )+", "", text, flags=re.IGNORECASE)
    return capital(" ".join(text.split()).strip(" ,"))

"""ICD-10-CM: which category of the classification covers a diagnosis. Needs no hub.

Source: the tabular list of ICD-10-CM (public domain; April 2026 in version 1.5.0) in the PyPI
package `simple-icd-10-cm` (MIT). A question names a diagnosis, four short category titles are
the choices. The wrong ones come from the same block of the classification or, where the block
has too few, from the same chapter. A question none of whose choices shares a word, or a run of
five letters, with the diagnosis is kept; so counting words answers none of them.

Splits: categories are dealt to train, validation and test by their short title, and all four
choices of a question are from its own split. So no choice of a test question was ever an answer
in training. Calibration and dev are carved from validation.
"""

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from trimlab.data.heuristic_baselines import stems
from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.errors import InputError

CHOICES = 4


PER_TITLE = 14  # questions at most, so that no answer rules


TITLE_LETTERS, TITLE_WORDS = 24, 3  # short answers: the LM head is paid per answer token


DIAGNOSIS_LETTERS = 80


RUN = 5  # letters in a row that a diagnosis and a choice may not share


SPLITS = {"test": 0.28, "validation": 0.22, "train": 0.5}


# what marks a category, or a diagnosis, as the rest that others do not name
REST = r"other|unspecified|elsewhere|specified|certain|ill-defined|multiple|nos|nec"


NOT_A_NAME = re.compile(rf"\b({REST}|codes?|coded|category|sequela|ruled)\b|:", re.IGNORECASE)


LINKS = "of|to|with|by|involving|for|in|on|due|from|at|and|or|without"


class ICD10CM(Task):
    r"""`Question: Which category covers {diagnosis}?\nAnswer:` -> ` {category title}`."""

    licence = "public domain (ICD-10-CM); MIT (package simple-icd-10-cm)"

    def rows(self, split: str, root: Path | None) -> list[Row]:
        """Builds the questions from the package, whatever the root."""
        return _questions()[split]

    def item(self, row: Row, prompt: str) -> Item:
        """The built rows are questions already."""
        choices = tuple(f" {title}" for title in row.texts("choices"))
        return Item(f"Question: {row.text('question')}\nAnswer:", choices, row.index("answer"))


@dataclass(frozen=True)
class _Category:
    code: str
    title: str
    block: str
    chapter: str
    split: str


@cache
def _questions() -> dict[str, list[Row]]:
    """The questions of every split, the same on every machine."""
    categories = _categories()
    names = {category: _diagnoses(category.code) for category in categories}
    uses = Counter(name.casefold() for own in names.values() for name in own)
    near: dict[tuple[str, str], list[_Category]] = defaultdict(list)
    for category in categories:
        near[category.split, category.chapter].append(category)
    found: dict[str, list[tuple[str, str, list[str]]]] = defaultdict(list)
    asked: dict[str, list[set[str]]] = defaultdict(list)
    for gold in categories:
        taken = asked[gold.title]
        for name in sorted(names[gold], key=lambda name: _rank(gold.code, name)):
            if len(taken) == PER_TITLE:
                break
            question = f"Which category covers {name}?"
            words = stems(name)
            # left and right, or four intents of one poisoning, are one question
            copy = any(2 * len(words & other) > len(words | other) for other in taken)
            if copy or uses[name.casefold()] > 1 or _tells(question, gold.title):
                continue
            wrong = _distractors(gold, question, near[gold.split, gold.chapter])
            if len(wrong) == CHOICES - 1:
                found[gold.split].append((question, gold.title, wrong))
                taken.append(words)
    rows = {}
    for split, questions in found.items():
        rows[split] = []
        for index, (question, title, wrong) in enumerate(
            sorted(questions, key=lambda q: _rank(*q[:2]))
        ):
            answer = index % CHOICES  # every position equally often
            choices = [*wrong[:answer], title, *wrong[answer:]]
            columns = {"question": question, "choices": choices, "answer": answer}
            rows[split].append(Row(columns, f"icd10cm {split} row {index}"))
    return rows


def _distractors(gold: _Category, question: str, near: list[_Category]) -> list[str]:
    """Titles that neither tell the answer nor could be it, those of the same block first."""
    order = sorted(near, key=lambda c: (c.block != gold.block, _rank(question, c.code)))
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
    """Whether a question and a choice share a word or a run of letters."""
    return bool(stems(question) & stems(title)) or bool(_runs(question) & _runs(title))


@cache
def _runs(text: str) -> frozenset[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return frozenset(w[i : i + RUN] for w in words for i in range(len(w) - RUN + 1))


def _categories() -> list[_Category]:
    """The categories whose title is short and says what they cover."""
    icd = _package()
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
    """Whether a short title is short, means something and fits no category beside it."""
    return (
        len(title) <= TITLE_LETTERS
        and len(title.split()) <= TITLE_WORDS
        and bool(stems(title))
        and not NOT_A_NAME.search(title)
        and not re.search(rf"\b({LINKS})$|,", title)
        and not any(stems(title) <= stems(sibling) for sibling in siblings)
    )


def _split(title: str) -> str:
    place = int(_rank("split", title.casefold())[:8], 16) / 2**32
    for split, share in SPLITS.items():
        place -= share
        if place < 0:
            return split
    return next(reversed(SPLITS))  # the shares' sum may fall short of 1 by rounding


def _short_titles(titles: dict[str, str]) -> dict[str, str]:
    """Drops from the titles of a block what does not tell its categories apart.

    That is brackets, "Other", "not elsewhere classified", and what a third of the titles begin
    or end with: "Malignant neoplasm of stomach" is "Stomach", "Open wound of thorax" "Open wound".
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
    return {code: _capital(title.strip(" ,")) for code, title in short.items()}


def _beginnings(title: str) -> list[str]:
    return [title[: m.end()] for m in re.finditer(rf" ({LINKS}) (the )?", title)]


def _ends(title: str) -> list[str]:
    return [title[m.start() :] for m in re.finditer(rf" ({LINKS}) |, ", title)]


def _plain(text: str) -> str:
    """A title or an inclusion term without brackets, "Other" and "not elsewhere classified"."""
    text = re.sub(r"\s*(\[[^]]*\]|\([^)]*\))", "", text)
    text = re.sub(r",? (not elsewhere|in diseases|classified|unspecified|NOS|NEC)\b.*", "", text)
    text = re.sub(r"^((other|unspecified|specified|certain|and) )+", "", text, flags=re.IGNORECASE)
    return _capital(" ".join(text.split()).strip(" ,"))


def _diagnoses(code: str) -> list[str]:
    """What a category covers by name: inclusion terms, and the titles of its subcategories."""
    icd = _package()
    terms = [*icd.get_includes(code), *icd.get_inclusion_term(code)]
    for child in icd.get_descendants(code):
        # the seventh character only says which encounter it is
        if not icd.is_extended_subcategory(child):
            terms += [icd.get_description(child), *icd.get_inclusion_term(child)]
    names = (re.sub(r"\s*(\[[^]]*\]|\([^)]*\)|,? \bNOS\b)", "", term) for term in terms)
    return list(
        dict.fromkeys(
            _capital(" ".join(name.split()))
            for name in names
            if 4 <= len(name) <= DIAGNOSIS_LETTERS and not NOT_A_NAME.search(name)
        )
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rank(*parts: str) -> str:
    """Decides every order and choice here: random, yet the same on every machine."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _package() -> ModuleType:
    try:
        import simple_icd_10_cm
    except ImportError:
        raise InputError(
            "task icd10cm needs the package simple-icd-10-cm: pip install 'trimlab[embedded]'"
        ) from None
    return simple_icd_10_cm

"""What tasks on ICD-10-CM share: the classification, its diagnoses, and how questions are made.

Source: the tabular list of ICD-10-CM (public domain; April 2026 in version 1.5.0) in the PyPI
package `simple-icd-10-cm` (MIT).
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable
from types import ModuleType

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.source import DataSource
from trimlab.data.task import Task
from trimlab.errors import InputError

DIAGNOSIS_LETTERS = 80
# words of residual categories and diagnoses ("Other ...", "..., unspecified")
REST = r"other|unspecified|elsewhere|specified|certain|ill-defined|multiple|nos|nec"
NOT_A_NAME = re.compile(rf"\b({REST}|codes?|coded|category|sequela|ruled)\b|:", re.IGNORECASE)


class ICD10Task(Task):
    """Multiple choice: what covers a diagnosis."""

    licence = "public domain (ICD-10-CM); MIT (package simple-icd-10-cm)"

    @abstractmethod
    def questions(self) -> dict[str, list[Row]]:
        """The questions by split, the same on every machine."""

    def rows(self, split: str, source: DataSource) -> list[Row]:
        """Builds the questions of a split from the package; the source is not read."""
        return self.questions()[split]

    def item(self, row: Row, prompt: str) -> Item:
        """The row has the question, the choices and the answer."""
        choices = tuple(f" {title}" for title in row.texts("choices"))
        return Item(f"Question: {row.text('question')}\nAnswer:", choices, row.index("answer"))


def is_copy(words: frozenset[str], asked: Iterable[frozenset[str]]) -> bool:
    """Whether a diagnosis is nearly the same as one that is asked about already.

    Left and right, or the four intents of one poisoning, are one question.

    Args:
        words: The stems of the diagnosis.
        asked: The stems of the others.
    """
    return any(2 * len(words & other) > len(words | other) for other in asked)


def rows_of(where: str, questions: Iterable[tuple[str, str, list[str]]], choices: int) -> list[Row]:
    """Questions as rows, with every answer position equally often.

    Args:
        where: Task and split, for messages.
        questions: Text, right choice and wrong choices of each, in their order.
        choices: Number of choices.
    """
    rows = []
    for number, (text, right, wrong) in enumerate(questions):
        answer, titles = number % choices, list(wrong)
        titles.insert(answer, right)
        columns = {"question": text, "choices": titles, "answer": answer}
        rows.append(Row(columns, f"{where} row {number}"))
    return rows


def diagnoses(code: str) -> list[str]:
    """The diagnoses that a category covers: inclusion terms, and titles of its subcategories."""
    icd = classification()
    terms = [*icd.get_includes(code), *icd.get_inclusion_term(code)]
    for child in icd.get_descendants(code):
        # the seventh character is only the encounter
        if not icd.is_extended_subcategory(child):
            terms += [icd.get_description(child), *icd.get_inclusion_term(child)]
    names = (re.sub(r"\s*(\[[^]]*\]|\([^)]*\)|,? \bNOS\b)", "", term) for term in terms)
    return list(
        dict.fromkeys(
            capital(" ".join(name.split()))
            for name in names
            if 4 <= len(name) <= DIAGNOSIS_LETTERS and not NOT_A_NAME.search(name)
        )
    )


def capital(text: str) -> str:
    """A text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def rank(*parts: str) -> str:
    """A hash that decides every order and choice here, the same on every machine."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def classification() -> ModuleType:
    """The package that holds the classification.

    Raises:
        InputError: It is not installed.
    """
    try:
        import simple_icd_10_cm
    except ImportError:
        raise InputError(
            "this task needs the package simple-icd-10-cm: pip install 'trimlab[embedded]'"
        ) from None
    return simple_icd_10_cm

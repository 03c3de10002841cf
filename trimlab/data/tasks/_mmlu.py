"""MMLU: multiple-choice exam questions of 57 subjects (arXiv 2009.03300).

Source: `cais/mmlu` on the hub, one configuration per subject; locally `mmlu/<subject>/`. Splits: no
subject has training rows, so train, calibration and dev are carved from validation; test is the
reported set. The five dev rows, the few-shot examples of the harness, are not used.
"""

from collections.abc import Sequence
from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.mixture import Mixture, Part
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.errors import InputError

LETTERS = "ABCD"


class Subject(Part):
    r"""`Question: {question}\nAnswer:` -> ` {option}`; the harness prints options, scores letters.

    Args:
        subject: Name of the subject in MMLU.
    """

    hub = "cais/mmlu"
    example: ClassVar = {
        "question": "Which of these makes the price of bread rise?",
        "choices": ["a bad harvest", "a good harvest", "cheap flour", "fewer mouths to feed"],
        "answer": 0,
    }
    licence = "MIT"
    prompts = ("authors", "harness")
    splits = ("validation", "validation", "test")

    def __init__(self, subject: str):
        super().__init__(f"mmlu/{subject}")
        self.config = subject
        self.harness = f"mmlu_{subject}"
        self.topic = subject.replace("_", " ")

    def item(self, row: Row, prompt: str) -> Item:
        """The choices are the four options (`authors`) or their letters (`harness`)."""
        question, options = row.text("question").strip(), row.texts("choices")
        gold = row.index("answer")
        if len(options) != len(LETTERS):
            raise InputError(f"{row.where}: 'choices' must be {len(LETTERS)} texts")
        if prompt == "authors":
            choices = tuple(f" {option}" for option in options)
            return Item(f"Question: {question}\nAnswer:", choices, gold)
        printed = "".join(f"{a}. {b}\n" for a, b in zip(LETTERS, options, strict=True))
        return Item(
            "The following are multiple choice questions (with answers) about "
            f"{self.topic}.\n\n{question}\n{printed}Answer:",
            tuple(f" {letter}" for letter in LETTERS),
            gold,
        )


class Subjects(Mixture):
    """Several subjects of MMLU, their rows pooled.

    Attributes:
        subjects: Names of the subjects.
    """

    hub = "cais/mmlu"
    licence = Subject.licence
    prompts = Subject.prompts
    splits = Subject.splits
    subjects: ClassVar[tuple[str, ...]]

    def parts(self, split: str) -> Sequence[Task]:
        """One part per subject, for every split."""
        return [Subject(subject) for subject in self.subjects]

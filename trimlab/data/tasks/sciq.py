"""SciQ: crowd-sourced science questions, most with a supporting passage (arXiv 1707.06209).

Source: `allenai/sciq` on the hub; order of the choices as in lm-evaluation-harness.
Splits: train; calibration and dev from validation; test is the reported set.
"""

from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task


class SciQ(Task):
    r"""`{support}\nQuestion: {question}\nAnswer:` -> ` {choice}`."""

    hub = "allenai/sciq"
    harness = "sciq"
    example: ClassVar = {
        "question": "What do plants take in from the air?",
        "distractor1": "helium",
        "distractor2": "gold",
        "distractor3": "salt",
        "correct_answer": "carbon dioxide",
        "support": "Plants make sugar out of water and carbon dioxide.",
    }
    licence = "CC BY-NC 3.0"
    official: ClassVar = {"train": 11_679, "validation": 1_000, "test": 1_000}

    def item(self, row: Row, prompt: str) -> Item:
        """The choices are the three distractors and, last, the right answer."""
        names = ("distractor1", "distractor2", "distractor3", "correct_answer")
        # rows without a passage begin with a line break, as in the harness
        support = row.text("support").lstrip()
        return Item(
            f"{support}\nQuestion: {row.text('question')}\nAnswer:",
            tuple(f" {row.text(name)}" for name in names),
            gold=3,
        )

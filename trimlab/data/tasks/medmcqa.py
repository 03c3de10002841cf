"""MedMCQA: questions of Indian medical entrance exams (arXiv 2203.14371).

Source: `openlifescienceai/medmcqa` on the hub. Splits: the official test set has no labels, so
the reported set is the hub's validation; calibration, dev and train are carved from the training
rows. Rows of `choice_type` multi have one right option, too, and are kept, as in the harness. A
local `train.jsonl` may be partial, with subjects out of proportion; the official one has 182,822
rows.
"""

from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task

LETTERS = "ABCD"


class MedMCQA(Task):
    """`authors` scores the text of the options; `harness` prints them and scores letters."""

    hub = "openlifescienceai/medmcqa"
    harness = "medmcqa"
    example: ClassVar = {
        "question": "Scurvy is due to a lack of vitamin",
        "opa": "A",
        "opb": "B12",
        "opc": "C",
        "opd": "D",
        "cop": 2,
        "choice_type": "single",
    }
    licence = "Apache-2.0 (hub card); MIT (original repository)"
    official: ClassVar = {"train": 182_822, "validation": 4_183}
    prompts = ("authors", "harness")
    splits = ("train", "train", "validation")

    def item(self, row: Row, prompt: str) -> Item:
        """`cop` is the index of the right option."""
        question, gold = row.text("question"), row.index("cop")
        options = [row.text(name) for name in ("opa", "opb", "opc", "opd")]
        if prompt == "authors":
            return Item(
                f"Question: {question}\nAnswer:", tuple(f" {option}" for option in options), gold
            )
        printed = "".join(f"{a}. {b}\n" for a, b in zip(LETTERS, options, strict=True))
        return Item(
            f"Question: {question}\nChoices:\n{printed}Answer:",
            tuple(f" {letter}" for letter in LETTERS),
            gold,
        )

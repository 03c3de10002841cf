"""PIQA: the better of two ways to an everyday goal (arXiv 1911.11641).

Source: `baber/piqa` on the hub, the copy without a loading script, as in lm-evaluation-harness.
Splits: the labels of the official test set are not public, so the reported set is the
hub's validation; calibration, dev and train are carved from the training rows.
"""

from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task


class PIQA(Task):
    r"""`Question: {goal}\nAnswer:` -> ` {sol}`."""

    hub = "baber/piqa"
    harness = "piqa"
    example: ClassVar = {
        "goal": "To keep soup warm,",
        "sol1": "put a lid on it.",
        "sol2": "put ice in it.",
        "label": 0,
    }
    licence = "AFL 3.0"
    official: ClassVar = {"train": 16_113, "validation": 1_838}
    splits = ("train", "train", "validation")

    def item(self, row: Row, prompt: str) -> Item:
        """The two solutions are the choices."""
        return Item(
            f"Question: {row.text('goal')}\nAnswer:",
            (f" {row.text('sol1')}", f" {row.text('sol2')}"),
            gold=row.index("label"),
        )

"""PubMedQA: the answer of a medical abstract to its question, yes, no or maybe (arXiv 1909.06146).

Source: the 1,000 expert-labelled rows (PQA-L) of `bigbio/pubmed_qa`, configuration
`pubmed_qa_labeled_fold0_source`, on the hub. Splits: the 450 train and 50 validation rows of
fold 0 are one pool (locally `train.jsonl`), from which train, calibration and dev are carved; the
official test set is reported. Abstracts are long: a prompt over `data.max_length` loses its
beginning.
"""

from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row, Rows
from trimlab.data.source import DataSource
from trimlab.data.task import Task

ANSWERS = ("yes", "no", "maybe")


class PubMedQA(Task):
    r"""`Abstract: {contexts}\nQuestion: {question}\nAnswer:` -> ` yes`, ` no`, ` maybe`."""

    hub = "bigbio/pubmed_qa"
    config = "pubmed_qa_labeled_fold0_source"
    harness = "pubmedqa"
    example: ClassVar = {
        "QUESTION": "Does a daily walk lower the blood pressure?",
        "CONTEXTS": ["Fifty adults walked for an hour a day.", "Their pressure fell by 8 mmHg."],
        "final_decision": "yes",
    }
    licence = "MIT"
    splits = ("train", "train", "test")

    def rows(self, split: str, source: DataSource) -> Rows:
        """Reads the rows of a split; on the hub, the pool is made of two splits."""
        rows = super().rows(split, source)
        if source.root is None and split == "train":
            return [*rows, *super().rows("validation", source)]
        return rows

    def item(self, row: Row, prompt: str) -> Item:
        """The sections of the abstract are lines of the prompt, without the conclusion."""
        abstract = "\n".join(row.texts("CONTEXTS"))
        return Item(
            f"Abstract: {abstract}\nQuestion: {row.text('QUESTION')}\nAnswer:",
            tuple(f" {answer}" for answer in ANSWERS),
            gold=row.label("final_decision", ANSWERS),
        )

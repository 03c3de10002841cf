"""CaseHOLD: the holding that a passage of a US court decision cites (arXiv 2104.08671).

Source: `coastalcph/lex_glue`, configuration `case_hold`, on the hub (LexGLUE, arXiv 2110.00976).
Splits: train (45,000 rows); calibration and dev from validation (3,900); test (3,600) is the
reported set. A local folder with `test.jsonl` alone is a sample of the official test set: its rows
are divided by a hash of their text, three fifths to train, one to validation and one to test.
Results on a sample are not comparable with published ones.
"""

from pathlib import Path
from typing import ClassVar

from trimlab.data.items import Item, digest_number
from trimlab.data.rows import Row, Rows
from trimlab.data.source import DataSource
from trimlab.data.task import Task

SAMPLE_SPLITS = ("train", "train", "train", "validation", "test")  # by hash


class CaseHOLD(Task):
    """`{context}` -> ` {holding}`; `<HOLDING>` in the context marks the place of the holding."""

    hub = "coastalcph/lex_glue"
    config = "case_hold"
    example: ClassVar = {
        "context": "A landlord must keep the stairs safe. See Doe v. Roe, 1 U.S. 1 (<HOLDING>).",
        "endings": [
            "holding that a landlord must mend a broken step",
            "holding that a contract needs an offer",
            "holding that hearsay is not evidence",
            "holding that a will needs two witnesses",
            "holding that the claim came too late",
        ],
        "label": 0,
    }
    licence = "CC BY 4.0 (LexGLUE); Apache-2.0 (original repository)"
    official: ClassVar = {"train": 45_000, "validation": 3_900, "test": 3_600}

    def rows(self, split: str, source: DataSource) -> Rows:
        """Reads the rows of a split, or its share of a sample."""
        if source.root is None or not _is_sample(self.folder(source.root)):
            return super().rows(split, source)
        sample = super().rows("test", source)
        return [row for row in sample if _sample_split(row) == split]

    def item(self, row: Row, prompt: str) -> Item:
        """The five holdings are the choices."""
        choices = tuple(f" {holding}" for holding in row.texts("endings"))
        return Item(row.text("context").rstrip(), choices, row.index("label"))


def _is_sample(folder: Path) -> bool:
    return [file.stem for file in folder.glob("*.jsonl")] == ["test"]


def _sample_split(row: Row) -> str:
    """The split of a row of a sample; it does not depend on the other rows."""
    return SAMPLE_SPLITS[digest_number(row.text("context")) % len(SAMPLE_SPLITS)]

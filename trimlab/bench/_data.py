"""Rows of a task for benchmarks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimlab.data.domain import DomainData
from trimlab.data.items import Item, fingerprint
from trimlab.data.splits import RowSets, read_row_sets, read_test_items
from trimlab.data.task import load_task


class BenchmarkData:
    """Reads rows of one task and keeps the fingerprints of all row sets it has read.

    Args:
        task: Name of a task.
        root: Folder with local `.jsonl` files; without it, rows come from the hub.
        seed: Seed of the choice of rows.

    Attributes:
        fingerprints: Fingerprint of the last row set of each name, for the record.
    """

    def __init__(self, task: str, root: Path | None, seed: int):
        self.task, self.root, self.seed = load_task(task), root, seed
        self.fingerprints: dict[str, str] = {}

    def row_sets(self, **sizes: Any) -> RowSets:
        """Row sets of the given sizes, see `read_row_sets`."""
        sets = read_row_sets(self.task, self.root, seed=self.seed, **sizes)
        self.fingerprints |= sets.fingerprints()
        return sets

    def test_items(self, n: int) -> list[Item]:
        """The first `n` test items."""
        items = read_test_items(self.task, self.root, n)
        self.fingerprints["test"] = fingerprint(items)
        return items

    def domain(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train: int,
        calibration: int = 1,
        dev: int = 1,
        **options: Any,
    ) -> DomainData:
        """A data module, set up with rows tokenised for a model.

        Args:
            tokenizer: The model's tokenizer.
            train: Training rows.
            calibration: Calibration items.
            dev: Dev items.
            **options: Further options of `DomainData`.
        """
        data = DomainData(
            tokenizer,
            self.task.name,
            self.root,
            train_rows=train,
            calibration_rows=calibration,
            dev_rows=dev,
            test_rows=1,
            seed=self.seed,
            **options,
        )
        data.setup()
        assert data.rows is not None
        self.fingerprints |= data.rows.fingerprints()
        return data

    def texts(self) -> Iterator[str]:
        """All training texts with their correct answers."""
        for item in self.row_sets(calibration=1, dev=1, test=1).train:
            yield item.context + item.choices[item.gold]

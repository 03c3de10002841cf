"""The data of a domain as a LightningDataModule."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning as L
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from trimlab.data.batching import Batch, batches, collate, scan_batches
from trimlab.data.chat_template import use_chat_template
from trimlab.data.encoding import EncodedItem, encode
from trimlab.data.items import Item
from trimlab.data.report import DataReport, SetReport
from trimlab.data.sampler import LengthBuckets
from trimlab.data.splits import RowSets, read_row_sets
from trimlab.data.task import MetricName, load_task
from trimlab.errors import InputError


class _Batches(Dataset[Batch]):
    """Encoded items; the "index" of an element is a list of indices, and the element a batch."""

    def __init__(self, items: Sequence[EncodedItem]):
        self.items = items

    def __getitem__(self, indices: list[int]) -> Batch:
        return collate(self.items, indices)


class DomainData(L.LightningDataModule):
    """Rows of one task, tokenised and batched.

    Args:
        tokenizer: The model's tokenizer (on the command line it comes from the model).
        task: Name of a file in `trimlab/data/tasks`; `jsonl` and `text` are your own data.
        root: Folder with local `.jsonl` files in the hub's schema; without it, rows come from
            the Hugging Face hub (embedded tasks need neither).
        prompt: Prompt format: `authors` (TrimLLM's) or, where it differs, `harness`.
        train_rows: Training rows, all if not given.
        calibration_rows: Items that score sublayers.
        dev_rows: Items that watch training and the accuracy stop rule.
        test_rows: Items of the final report, all if not given.
        batch_size: Items per optimizer step.
        eval_tokens: Most tokens, padding included, that an evaluation or a scan computes at once:
            items and, where they leave room, copies of them without one candidate each. On a CPU
            small batches waste less on padding; a GPU wants some ten thousand.
        max_length: Longest text in tokens, and never more than the model reads; a longer context
            loses its oldest tokens.
        seed: Seed of the row choice and of the training order.
        metric: Metric of a task without alternatives: `exp_neg_loss`, its default, or
            `token_accuracy`.
        chat_template: File with a chat template (Jinja) for a tokenizer that has none, or in place
            of its own. Exports have it, too.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: str = "icd10cm",
        root: str | Path | None = None,
        prompt: Literal["authors", "harness"] = "authors",
        train_rows: int | None = None,
        calibration_rows: int = 50,
        dev_rows: int = 100,
        test_rows: int | None = None,
        batch_size: int = 16,
        eval_tokens: int = 1024,
        max_length: int = 1024,
        seed: int = 0,
        metric: MetricName | None = None,
        chat_template: str | Path | None = None,
    ):
        super().__init__()
        for name, value in {
            "train_rows": train_rows,
            "calibration_rows": calibration_rows,
            "dev_rows": dev_rows,
            "test_rows": test_rows,
            "batch_size": batch_size,
            "eval_tokens": eval_tokens,
        }.items():
            if value is not None and value < 1:
                raise InputError(f"data.{name} must be at least 1, not {value}")
        self.tokenizer = tokenizer
        if chat_template is not None:
            use_chat_template(tokenizer, chat_template)
        self.task = load_task(task).scored_by(metric).with_tokenizer(tokenizer)
        self.root = None if root is None else Path(root)
        self.prompt = prompt
        self.train_rows, self.test_rows = train_rows, test_rows
        self.calibration_rows, self.dev_rows = calibration_rows, dev_rows
        self.batch_size, self.eval_tokens = batch_size, eval_tokens
        self.max_length, self.seed = min(max_length, tokenizer.model_max_length), seed
        self.rows: RowSets | None = None
        self._train: list[EncodedItem] = []
        self._held_out: dict[Item, EncodedItem] = {}  # calibration, dev and test

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises all rows, once. A row that cannot be used is refused here.

        Raises:
            InputError: The rows cannot be read or used, or a choice cannot be scored.
        """
        if self.rows is not None:
            return
        rows = read_row_sets(
            self.task,
            self.root,
            train=self.train_rows,
            calibration=self.calibration_rows,
            dev=self.dev_rows,
            test=self.test_rows,
            seed=self.seed,
            prompt=self.prompt,
        )
        self._train = [
            encode(self.tokenizer, item, self.max_length, only_gold=True) for item in rows.train
        ]
        held_out = (*rows.calibration, *rows.dev, *rows.test)
        self._held_out = {item: encode(self.tokenizer, item, self.max_length) for item in held_out}
        self.rows = rows

    def report(self) -> DataReport:
        """What reading the rows has found."""
        self.setup()
        assert self.rows is not None
        return DataReport({name: SetReport(n) for name, n in self.rows.counts().items()})

    def train_items(self) -> list[EncodedItem]:
        """The training items, each with its right choice alone."""
        self.setup()
        return self._train

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training items, in a new order every epoch."""
        items = self.train_items()
        lengths = [len(item.tokens) for item in items]
        order = LengthBuckets(lengths, self.batch_size, self.seed, self._epoch)
        # the sampler's "index" is a whole batch, which `_Batches` collates
        return DataLoader(_Batches(items), sampler=order, batch_size=None)  # type: ignore[arg-type]

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer is not None else 0

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of dev items with all their choices."""
        self.setup()
        assert self.rows is not None
        return DataLoader(self.evaluation_batches(self.rows.dev), batch_size=None)  # type: ignore[arg-type]

    def calibration_items(self) -> list[EncodedItem]:
        """The calibration items with all their choices."""
        self.setup()
        assert self.rows is not None
        return [self._encoded(item) for item in self.rows.calibration]

    def calibration_batches(self) -> list[Batch]:
        """Batches of calibration items with all their choices, as a scan needs them."""
        return scan_batches(self.calibration_items(), self.eval_tokens)

    def evaluation_batches(self, items: Sequence[Item]) -> list[Batch]:
        """Batches of any items with all their choices, longest first."""
        encoded = [self._encoded(item) for item in items]
        return [collate(encoded, group) for group in batches(encoded, self.eval_tokens)]

    def _encoded(self, item: Item) -> EncodedItem:
        """An item with all its choices: as encoded by `setup`, or encoded now."""
        return self._held_out.get(item) or encode(self.tokenizer, item, self.max_length)

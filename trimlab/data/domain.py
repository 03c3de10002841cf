"""The data of a domain as a LightningDataModule."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from trimlab.data.batching import Batch, BatchDataset, batches, collate, scan_batches
from trimlab.data.capacity import EVAL_TOKENS, Capacity, capacity
from trimlab.data.chat_template import use_chat_template
from trimlab.data.encoding import EncodedItem, encode_all
from trimlab.data.faults import Faults
from trimlab.data.items import Item
from trimlab.data.lengths import length_notes, set_report
from trimlab.data.packed_items import PackedItems
from trimlab.data.report import DataReport
from trimlab.data.sampler import LengthBuckets
from trimlab.data.source import DataSource
from trimlab.data.splits import SETS, RowSets, read_row_sets
from trimlab.data.task import MetricName, load_task
from trimlab.errors import InputError

CPU = torch.device("cpu")
DEFAULT_MAX_LENGTH = 1024  # tokens of a text by default, and less where the model reads less


class DomainData(L.LightningDataModule):
    """Rows of one task, tokenised and batched.

    Args:
        tokenizer: The model's tokenizer (on the command line it comes from the model).
        task: Name of a file in `trimlab/data/tasks`; `jsonl` and `text` are your own data.
        root: Folder with a file for each split, `train.jsonl` and so on (`.jsonl`, `.json`,
            `.csv`, `.tsv` or `.parquet`, also compressed), in the hub's schema; or, for rows of
            your own, one file, of which a part becomes the test set. Without it, rows come from
            the Hugging Face hub (embedded tasks need neither).
        prompt: Prompt format: `authors` (TrimLLM's) or, where it differs, `harness`.
        train_rows: Training rows, all if not given.
        calibration_rows: Items that score sublayers.
        dev_rows: Items that watch training and the accuracy stop rule.
        test_rows: Items of the final report, all if not given.
        batch_size: Items per optimizer step.
        eval_tokens: Most tokens, padding included, that an evaluation or a scan computes at once:
            items and, where they leave room, copies of them without one candidate each. On a CPU
            small batches waste less on padding; on a GPU 1024, the default, stands for 4096 to
            65536, as its memory allows.
        max_length: Longest text in tokens, and never more than the model reads; a longer context
            loses its oldest tokens, and a longer plain text is read in windows.
        seed: Seed of the row choice and of the training order.
        train_eos: Train the end-of-text token (EOS) behind every right answer. By default the task
            decides: no for multiple choice and plain text. It is never part of what is scored.
        metric: Metric of a task without alternatives: `exp_neg_loss`, its default, or
            `token_accuracy`.
        chat_template: File with a chat template (Jinja) for a tokenizer that has none, or in place
            of its own. Exports have it, too.
        **source: Further options of `DataSource`.
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
        eval_tokens: int = EVAL_TOKENS,
        max_length: int = DEFAULT_MAX_LENGTH,
        seed: int = 0,
        train_eos: bool | None = None,
        metric: MetricName | None = None,
        chat_template: str | Path | None = None,
        **source: Any,
    ):
        super().__init__()
        self.source = DataSource(None if root is None else Path(root), **source)
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
        self.prompt = prompt
        self.train_rows, self.test_rows = train_rows, test_rows
        self.calibration_rows, self.dev_rows = calibration_rows, dev_rows
        self.batch_size, self.eval_tokens = batch_size, eval_tokens
        self.asked_length, self.seed = max_length, seed
        self.max_length = min(max_length, tokenizer.model_max_length)  # what the model reads
        self.train_eos = self.task.ends_with_eos if train_eos is None else train_eos
        if train_eos and tokenizer.eos_token_id is None:
            raise InputError("data.train_eos: the tokenizer has no end-of-text token (EOS)")
        self.rows: RowSets | None = None
        self._faults: dict[str, Faults] = {}  # by set, why items cannot be tokenised
        self.progress = False  # show bars while rows are read and tokenised
        self._train = PackedItems()
        # by set, number of encoded items of every item: one, the windows of a plain text, or none
        self._counts: dict[str, array[int]] = {}
        self._held_out: dict[Item, list[EncodedItem]] = {}  # all but train, and other tasks' items

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises all rows, once. A row that cannot be used is refused here.

        Raises:
            InputError: The rows cannot be read or used, or a choice cannot be scored.
        """
        if self.rows is not None:
            return
        rows = read_row_sets(
            self.task,
            self.source,
            train=self.train_rows,
            calibration=self.calibration_rows,
            dev=self.dev_rows,
            test=self.test_rows,
            seed=self.seed,
            prompt=self.prompt,
            progress=self.progress,
        )
        kept, train = dict[str, list[Item]](), PackedItems()
        for name in SETS:
            training = name == "train"
            pairs = self._encode_set(
                name, getattr(rows, name), only_gold=training, train_eos=training and self.train_eos
            )
            kept[name], self._counts[name] = [], array("L")
            for item, parts in pairs:
                self._counts[name].append(len(parts))
                if parts:
                    kept[name].append(item)
                if training:
                    train.extend(parts)
                else:
                    self._held_out[item] = parts
        self._train, self.rows = train, replace(rows, **kept)

    def _encode_set(
        self, name: str, items: Sequence[Item], *, only_gold: bool = False, train_eos: bool = False
    ) -> Iterator[tuple[Item, list[EncodedItem]]]:
        """The items of a set with their tokens, of all choices or of the right ones alone.

        Faults are raised behind the last item.
        """
        end: Any = self.tokenizer.eos_token_id if train_eos else None
        faults, any_item, any_part = Faults(), False, False
        quiet = None if self.progress else True  # None: a bar only on a terminal
        for item in tqdm(items, f"tokenise {name}", leave=False, disable=quiet):
            try:
                parts = encode_all(self.tokenizer, item, self.max_length, only_gold, end=end)
            except InputError as fault:
                faults.add([str(fault)])
                continue
            any_item, any_part = True, any_part or bool(parts)
            yield item, parts
        if faults.count and self.source.bad_rows == "error":
            raise InputError(f"{faults}; data.bad_rows skip leaves such rows out")
        self._faults[name] = faults
        if faults.count and not any_item:
            raise InputError(f"no {name} item can be used: {faults}")
        if items and not any_part:
            raise InputError(f"{items[0].where}: no {name} text has two tokens to read")

    def report(self) -> DataReport:
        """What reading the rows has found."""
        self.setup()
        assert self.rows is not None
        notes, skipped = self._limit_notes(), dict[str, int]()
        for name, faults in self._faults.items():
            skipped[name] = faults.count
            notes += self._fault_notes(name)
        sets = {name: set_report(self.encoded_items(name)) for name in SETS}
        for name, found in sets.items():
            notes += length_notes(name, found, self._counts[name], self.max_length)
        return DataReport(
            sets,
            skipped=dict(Counter(self.rows.skipped) + Counter(skipped)),
            unread_columns=self.rows.unread_columns,
            notes=(*self.rows.notes, *notes),
        )

    def usable(self, items: Sequence[Item], name: str) -> list[Item]:
        """Any items without those that cannot be scored, which `data.bad_rows` refuses or skips.

        Args:
            items: The items.
            name: What they are, for messages.

        Raises:
            InputError: An item cannot be scored and is not to be skipped, or none is left.
        """
        pairs = list(self._encode_set(name, items))
        self._held_out |= dict(pairs)
        return [item for item, parts in pairs if parts]

    def notes(self, items: Sequence[Item], name: str) -> list[str]:
        """What a person should know of how any items are read: a sentence for each thing."""
        every = [self._parts(item) for item in items]
        found = set_report(part for parts in every for part in parts)
        lengths = length_notes(name, found, [*map(len, every)], self.max_length)
        return [*self._limit_notes(), *self._fault_notes(name), *lengths]

    def _fault_notes(self, name: str) -> list[str]:
        faults = self._faults.get(name, Faults())
        return [f"skipped {faults.count} {name} items: {faults}"] if faults.count else []

    def _limit_notes(self) -> list[str]:
        if self.asked_length <= self.max_length or self.asked_length == DEFAULT_MAX_LENGTH:
            return []
        asked, limit = self.asked_length, self.max_length
        return [f"the model reads {limit} tokens: data.max_length is {limit}, not {asked}"]

    def train_items(self, all_choices: bool = False) -> PackedItems:
        """The training items, each with its right choice alone.

        Args:
            all_choices: With all their choices, for a loss that compares them.

        Raises:
            InputError: No item has other choices, or one of them cannot be scored.
        """
        self.setup()
        return self._train_with_choices if all_choices else self._train

    @cached_property
    def _train_with_choices(self) -> PackedItems:
        assert self.rows is not None
        items = self.rows.train
        if all(len(item.choices) < 2 for item in items):
            raise InputError(
                f"task {self.task.name} has no training item with other choices than the right "
                "one, and the loss compares choices: give model.loss answers"
            )
        found = PackedItems()
        for _, parts in self._encode_set("train, all choices", items, train_eos=self.train_eos):
            found.extend(parts)
        return found

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training items, in a new order every epoch."""
        module = None if self.trainer is None else self.trainer.lightning_module
        items = self.train_items(getattr(module, "all_choices", False))
        size, seed = self.batch_size, self.seed
        order = LengthBuckets(items.lengths(), size, seed, self._epoch, done=self._done)
        # the sampler's "index" is a whole batch, which `BatchDataset` collates
        return DataLoader(BatchDataset(items), sampler=order, batch_size=None)  # type: ignore[arg-type]

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer is not None else 0

    def _done(self) -> int:
        """Batches of the current epoch that have been trained: some, where it was interrupted."""
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of dev items with all their choices."""
        self.setup()
        assert self.rows is not None
        device = CPU if self.trainer is None else self.trainer.strategy.root_device
        return DataLoader(self.evaluation_batches(self.rows.dev, device), batch_size=None)  # type: ignore[arg-type]

    def encoded_items(self, name: str) -> Sequence[EncodedItem]:
        """The items of a row set as the model reads them; training items as in `train_items`."""
        self.setup()
        assert self.rows is not None
        if name == "train":
            return self._train
        return [part for item in getattr(self.rows, name) for part in self._parts(item)]

    def calibration_items(self, only_gold: bool = False) -> list[EncodedItem]:
        """The calibration items with all their choices.

        Args:
            only_gold: With the right choice alone, as in training.
        """
        self.setup()
        assert self.rows is not None
        items = self.rows.calibration
        if only_gold:
            encoded = (encode_all(self.tokenizer, i, self.max_length, only_gold) for i in items)
            return [part for parts in encoded for part in parts]
        return [part for item in items for part in self._parts(item)]

    def capacity(self, device: torch.device = CPU) -> Capacity:
        """How much of an evaluation or a scan a device computes at once."""
        return capacity(device, self.eval_tokens)

    def calibration_batches(
        self, device: torch.device = CPU, only_gold: bool = False
    ) -> list[Batch]:
        """Batches of `calibration_items`, as a scan on a device needs them."""
        return scan_batches(self.calibration_items(only_gold), self.capacity(device).tokens)

    def evaluation_batches(self, items: Sequence[Item], device: torch.device = CPU) -> list[Batch]:
        """Batches of any items with all their choices, longest first.

        The windows of a long plain text are items of their own, and a text of one token is none.

        Args:
            items: The items.
            device: The device that computes. The batches are on the CPU.

        Raises:
            InputError: An item cannot be scored, or there is none left.
        """
        encoded = [part for item in items for part in self._parts(item)]
        if items and not encoded:
            raise InputError(f"{items[0].where}: no text has two tokens to read")
        return [collate(encoded, group) for group in batches(encoded, *self.capacity(device))]

    def _parts(self, item: Item) -> list[EncodedItem]:
        """An item with all its choices, encoded once."""
        if item not in self._held_out:
            self._held_out[item] = encode_all(self.tokenizer, item, self.max_length)
        return self._held_out[item]

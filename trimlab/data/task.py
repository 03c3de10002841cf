"""The interface of benchmarks and domains: rows in, items of (context, choices, gold) out.

A task is one file in `trimlab/data/tasks` with one public subclass of `Task`, found by the name of
the file. Files that begin with an underscore hold code that tasks share. A task states its source
and its splits and turns one row into an item. `readers.py` reads the rows, `splits.py` makes the
row sets, and `mixture.py` combines tasks.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from trimlab.data.dataset_rows import hub_rows
from trimlab.data.items import Item, is_unicode, plain
from trimlab.data.own_rows import find_splits, read_split
from trimlab.data.readers import read_file, split_file, task_folder
from trimlab.data.rows import Row, Rows
from trimlab.data.source import DataSource
from trimlab.errors import InputError
from trimlab.plugins import plugin_class, plugin_module

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASKS = "trimlab.data.tasks"
MetricName = Literal["accuracy", "exp_neg_loss", "token_accuracy"]
Layout = dict[str, str]


class Task(ABC):
    """A source of rows, and the conversion of a row into an item.

    Attributes:
        hub: Data set on the Hugging Face hub; None for tasks that are not on the hub.
        config: Configuration of that data set, if it has several.
        harness: Name in lm-evaluation-harness, if the harness has it as multiple choice.
        example: A row in the schema of the source; None for tasks that build their own rows.
        licence: Licence of the rows.
        metric: `accuracy` for multiple choice, `exp_neg_loss` or `token_accuracy` for a text or an
            answer without alternatives.
        generate: Number of test items that a model answers in its own words, unless the user says
            otherwise.
        prompts: Prompt formats. The first is the default; the last is that of the harness,
            where the harness has the task.
        splits: Names of the train, held-out and test split at the source. Calibration and dev
            are carved from the held-out split, which may be the train split.
        official: Number of rows by split at the source. A local folder may hold fewer.
        own_rows: The rows are the user's own. Faulty rows are refused, so that the user can
            repair them; faulty rows of a published benchmark are kept, or dropped and counted.
        free_form: A row is an answer to learn, without alternatives. Free-form rows are trained
            on and never used for calibration and dev.
        ends_with_eos: The end-of-text token is trained behind every answer, unless the user says
            otherwise (`data.train_eos`): a model that writes answers must learn to stop.
        notes: Remarks of `survey` for the user.
    """

    hub: ClassVar[str | None] = None
    config: str | None = None
    harness: str | None = None
    example: ClassVar[Mapping[str, Any] | None] = None
    licence: ClassVar[str]
    metric: MetricName = "accuracy"
    generate: ClassVar[int] = 0
    prompts: ClassVar[tuple[str, ...]] = ("authors",)
    splits: ClassVar[tuple[str, str, str]] = ("train", "validation", "test")
    official: ClassVar[Mapping[str, int]] = {}
    own_rows: ClassVar[bool] = False
    free_form: ClassVar[bool] = False
    ends_with_eos: ClassVar[bool] = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def item(self, row: Row, prompt: str) -> Item:
        """Turns a row into an item, in one of the `prompts`."""

    @property
    def name(self) -> str:
        """The name of the task's file, and of its folder in `data.root`."""
        return type(self).__module__.rpartition(".")[2]

    def parts(self, split: str) -> Sequence["Task"]:
        """The tasks whose rows make up a split: this one alone, except in a `Mixture`."""
        return (self,)

    def usable(self, row: Row) -> bool:
        """Whether a row can become an item. Other rows are dropped and counted."""
        return True

    def folder(self, root: Path) -> Path:
        """The folder with the task's files: `<root>/<name>` if it exists, else the root."""
        return task_folder(root, self.name)

    def layout(self, source: DataSource, needed: Sequence[str] = ("train", "test")) -> Layout:
        """Names of the splits at the source, by `train`, `validation` (held-out) and `test`.

        Args:
            source: The source of the rows.
            needed: Splits that may not be missing. Rows of the user's own may lack others.

        Raises:
            InputError: A split is missing, or an option of the source is not for this task.
        """
        if self.own_rows:
            return find_splits(source, self.name, needed)
        source.check_published(self.name)
        return dict(zip(("train", "validation", "test"), self.splits, strict=True))

    def rows(self, split: str, source: DataSource) -> Rows:
        """Reads the rows of one split.

        Args:
            split: Name of the split at the source.
            source: The source of the rows.

        Raises:
            InputError: The rows cannot be read.
        """
        if self.own_rows:
            return read_split(source, self.name, split)
        root = source.root
        if root is None:
            assert self.hub is not None
            return hub_rows(self.hub, self.config, split)
        if not root.is_dir():
            raise InputError(
                f"data.root {root} is {'a file' if root.exists() else 'no folder'}; "
                f"it must be the folder with {split}.jsonl"
            )
        folder = self.folder(root)
        return read_file(split_file(folder, split) or folder / f"{split}.jsonl")

    def key_texts(self, row: Row, item: Item) -> tuple[str, Sequence[str]]:
        """The prompt of a row and its other texts, which decide its row set and order.

        They depend on the row alone: not on other rows, nor on a model.

        Args:
            row: The row.
            item: Its item in the first of the `prompts`.
        """
        return item.context, item.choices

    def survey(self, rows: Mapping[str, Iterable[Row]], source: DataSource) -> "Task":
        """The task with what only all rows together tell, such as the labels of a classification.

        Args:
            rows: Rows that could be read, by `train`, `validation` and `test`, as far as there
                are such splits; those of a single file are all `train`. They can be iterated over
                several times, and are read again each time.
            source: The source of the rows.

        Raises:
            InputError: The rows contradict each other.
        """
        return self

    def with_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> "Task":
        """The task for a model: the same one, unless its prompts depend on the tokenizer."""
        return self

    def scored_by(self, metric: MetricName | None) -> Self:
        """The task with another metric.

        Args:
            metric: The metric; None leaves the task as it is.

        Raises:
            InputError: The metric does not fit the items of the task.
        """
        if metric is None or metric == self.metric:
            return self
        if "accuracy" in (metric, self.metric):
            fitting = "accuracy" if self.metric == "accuracy" else "exp_neg_loss or token_accuracy"
            raise InputError(f"data.metric of task {self.name} is {fitting}, not {metric}")
        task = copy(self)
        task.metric = metric
        return task

    def check_prompt(self, prompt: str) -> None:
        """Checks that the task has a prompt format.

        `harness` is accepted for every task of the harness: a task without a format of that name
        has a single format, and the harness has the same one.

        Raises:
            InputError: The task has no such prompt.
        """
        if prompt not in self.prompts and not (prompt == "harness" and self.harness):
            raise InputError(
                f"task {self.name} has no prompt {prompt!r}; there is {', '.join(self.prompts)}"
            )

    def checked_item(self, row: Row, prompt: str) -> Item:
        """Turns a row into an item and checks it.

        Args:
            row: The row.
            prompt: A prompt format; a task without it uses its first one. (The parts of a
                mixture need not all have the same formats.)

        Raises:
            InputError: The item has too few choices, an empty or repeated choice, an answer out
                of range, or text that is no Unicode.
        """
        item = self.item(row, prompt if prompt in self.prompts else self.prompts[0])
        problem = None
        if self.metric == "accuracy" and not self.free_form and len(item.choices) < 2:
            problem = f"{len(item.choices)} choices; a question needs two or more"
        elif not all(choice.strip() for choice in item.choices):
            problem = "an empty choice or text"
        elif not 0 <= item.gold < len(item.choices):
            problem = f"answer {item.gold} is out of range 0 to {len(item.choices) - 1}"
        elif self.own_rows and len(set(map(plain, item.choices))) < len(item.choices):
            problem = "two of the choices are the same"
        elif not is_unicode(item.context + "".join(item.choices)):
            problem = "a broken character (half of a surrogate pair)"
        if problem:
            raise InputError(f"{row.where}: {problem}")
        return replace(item, where=row.where)


def load_task(name: str) -> Task:
    """Makes a task.

    Args:
        name: Name of a file in `trimlab/data/tasks`, or that of one part of a mixture behind a
            slash: `mmlu_law/jurisprudence`.

    Raises:
        InputError: There is no such task, or no such part.
    """
    name, slash, part_name = name.partition("/")
    hint = (
        ". Your own rows: jsonl (multiple choice), classification, completion, chat or text, with "
        "data.root"
    )
    whole: Task = plugin_class(plugin_module(TASKS, name, "task", hint), Task)()
    if not slash:
        return whole
    parts = {part.name.rpartition("/")[2]: part for part in whole.parts(whole.splits[2])}
    if part_name not in parts:
        raise InputError(f"task {name} has no part {part_name!r}; there are {', '.join(parts)}")
    return parts[part_name]

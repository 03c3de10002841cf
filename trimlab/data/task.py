"""Benchmarks and domains: rows of text in, items of (context, choices, gold) out.

A task is one file in this folder that defines one public subclass of `Task`; the file's name is
the task's name (files that begin with an underscore are shared by tasks). It says where its rows
come from and how a row becomes an item; a `Mixture` puts other tasks' rows together. Reading
files, making the four row sets and checking the input is done here, once.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from trimlab.data.items import Item, fold
from trimlab.data.rows import Row, hub_rows, read_jsonl
from trimlab.errors import InputError
from trimlab.plugins import plugin_class, plugin_module

TASKS = "trimlab.data.tasks"


class Task(ABC):
    """A source of rows and the way in which one of them is asked.

    Attributes:
        hub: Data set on the Hugging Face hub, if it is one.
        config: The configuration of that data set, if it has several.
        harness: Its name in lm-evaluation-harness, if that asks it as multiple choice.
        example: A row in the schema of the source, for tasks that read one.
        licence: Licence of the rows.
        paper: Values published for this task, by model and method, in percent.
        metric: `accuracy` of multiple choice, or `likelihood` of plain text.
        prompts: The prompt formats there are; the first is the default, and the last is the
            harness's, where that has the task.
        splits: What the train, held-out and test rows are called at the source. Calibration
            and dev are carved from the held-out split, which may be the train split.
        official: How many rows the splits have at the source; a folder may hold fewer.
        own_rows: The rows are the user's: what is wrong with them is refused, so that it gets
            mended. The known flaws of a published benchmark are kept or dropped and counted.
        free_form: A row is an answer to learn, with nothing to choose: it is trained on, and
            never carved into calibration and dev.
    """

    hub: ClassVar[str | None] = None
    config: str | None = None
    harness: str | None = None
    example: ClassVar[Mapping[str, Any] | None] = None
    licence: ClassVar[str]
    paper: ClassVar[dict[str, float] | None] = None
    metric: ClassVar[Literal["accuracy", "exp_neg_loss"]] = "accuracy"
    prompts: ClassVar[tuple[str, ...]] = ("authors",)
    splits: ClassVar[tuple[str, str, str]] = ("train", "validation", "test")
    official: ClassVar[Mapping[str, int]] = {}
    own_rows: ClassVar[bool] = False
    free_form: ClassVar[bool] = False

    @abstractmethod
    def item(self, row: Row, prompt: str) -> Item:
        """Turns a row into an item, in one of the `prompts`."""

    @property
    def name(self) -> str:
        """The name of the file that defines the task, and of its folder in `data.root`."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def doc(self) -> str:
        """Source, licence and split policy: the docstring of the task's file."""
        return sys.modules[type(self).__module__].__doc__ or ""

    def parts(self, split: str) -> Sequence["Task"]:
        """Whose rows a split holds: this task's own, unless it is a `Mixture`."""
        return (self,)

    def usable(self, row: Row) -> bool:
        """Whether a row can be asked at all; the others are dropped and counted."""
        return True

    def folder(self, root: Path) -> Path:
        """Where the task's files are: `<root>/<name>` or, without such a folder, the root."""
        folder = root / self.name
        return folder if folder.is_dir() else root

    def rows(self, split: str, root: Path | None) -> list[Row]:
        """Reads the rows of one split, from local files or from the hub."""
        if root is not None:
            if not root.is_dir():
                raise InputError(
                    f"data.root {root} is {'a file' if root.exists() else 'no folder'}; "
                    f"it must be the folder with {split}.jsonl"
                )
            return read_jsonl(self.folder(root) / f"{split}.jsonl")
        if self.hub is None:
            raise InputError(f"task {self.name} reads your own files: give their folder, data.root")
        return hub_rows(self.hub, self.config, split)

    def check_prompt(self, prompt: str) -> None:
        """Refuses a prompt that the task does not have.

        `harness` is every task's that the harness has: without a prompt of that name, the only one
        there is is the harness's.

        Raises:
            InputError: There is no such prompt.
        """
        if prompt not in self.prompts and not (prompt == "harness" and self.harness):
            raise InputError(
                f"task {self.name} has no prompt {prompt!r}; there is {', '.join(self.prompts)}"
            )

    def checked_item(self, row: Row, prompt: str) -> Item:
        """An item that has been checked, in this prompt or in the only one that the row has."""
        item = self.item(row, prompt if prompt in self.prompts else self.prompts[0])
        problem = None
        if self.metric == "accuracy" and not self.free_form and len(item.choices) < 2:
            problem = f"{len(item.choices)} choices; a question needs two or more"
        elif not all(choice.strip() for choice in item.choices):
            problem = "an empty choice or text"
        elif not 0 <= item.gold < len(item.choices):
            problem = f"answer {item.gold} is out of range 0 to {len(item.choices) - 1}"
        elif self.own_rows and len({fold(choice) for choice in item.choices}) < len(item.choices):
            problem = "two of the choices are the same"
        if problem:
            raise InputError(f"{row.where}: {problem}")
        return item


class Mixture(Task):
    """A task made of others: each row is read and asked by the task that it comes from."""

    @abstractmethod
    def parts(self, split: str) -> Sequence[Task]:
        """The tasks whose rows a split holds."""

    def rows(self, split: str, root: Path | None) -> list[Row]:
        """The rows of all parts."""
        return [row for part in self.parts(split) for row in part.rows(split, root)]

    def item(self, row: Row, prompt: str) -> Item:
        """Not this task's business: the part that a row comes from asks it."""
        raise TypeError(f"task {self.name} is a mixture; its parts turn rows into items")


class Part(Task):
    """A task that is part of a mixture alone: its files are in a folder of that name, always.

    Args:
        name: Folder in `data.root`.
    """

    def __init__(self, name: str):
        self._name = name

    @property
    def name(self) -> str:
        """The name of its folder in `data.root`."""
        return self._name

    def folder(self, root: Path) -> Path:
        """Where the files are: `<root>/<name>`."""
        return root / self.name


def load_task(name: str) -> Task:
    """Makes a task.

    Args:
        name: A file in `data/tasks`; behind a slash one part of it, as `mmlu_law/jurisprudence`.

    Raises:
        InputError: There is no such task.
    """
    name, slash, part_name = name.partition("/")
    hint = ". Your own rows: task jsonl (multiple choice) or text, with data.root"
    whole: Task = plugin_class(plugin_module(TASKS, name, "task", hint), Task)()
    if not slash:
        return whole
    parts = {part.name.rpartition("/")[2]: part for part in whole.parts(whole.splits[2])}
    if part_name not in parts:
        raise InputError(f"task {name} has no part {part_name!r}; there are {', '.join(parts)}")
    return parts[part_name]

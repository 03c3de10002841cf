"""Benchmarks and domains: rows of text in, items of (context, choices, gold) out.

A task is one file in this folder that defines one public subclass of `Task`; the file's name is
the task's name (files that begin with an underscore are shared by tasks). It says where its rows
come from and how a row becomes an item; a `Mixture` puts other tasks' rows together. Reading
files, making the four row sets and checking the input is done here, once.
"""

import hashlib
import importlib
import json
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from trimlab.errors import InputError

HUB_SECONDS = 10  # how long the hub may take to answer at all
HUB_PARQUET = "refs/convert/parquet"  # where the hub keeps what it converted
TEST_SEED = 0  # the order of the test items, whatever the seed of a run


@dataclass(frozen=True, slots=True)
class Item:
    """One question, or one plain text.

    Attributes:
        context: The whole prompt, without trailing space.
        choices: Its continuations; each begins with the space that sets it off the context.
        gold: Index of the right choice.
    """

    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def hash(self) -> str:
        """Identifies the item in a record; runs of white space count as one space."""
        texts = [" ".join(text.split()) for text in (self.context, *self.choices)]
        return digest(json.dumps([texts, self.gold]))


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read, and where: errors name the file, the line and the column."""

    columns: Mapping[str, Any]
    where: str

    def text(self, column: str) -> str:
        """The text in a column."""
        return self._checked(column, lambda value: isinstance(value, str), "text")

    def texts(self, column: str) -> list[str]:
        """The list of texts in a column."""
        return self._checked(
            column,
            lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
            "a list of texts",
        )

    def index(self, column: str) -> int:
        """The whole number in a column."""
        # JSON's true is 1 in Python: an answer of `true` is a mistake, not choice 1
        return self._checked(column, lambda value: type(value) is int, "a whole number")

    def label(self, column: str, labels: Sequence[str]) -> int:
        """The place among `labels` of the text in a column."""
        kind = f"one of {', '.join(labels)}"
        # a list: in a text of letters, several letters or none would be found, too
        return list(labels).index(self._checked(column, lambda value: value in list(labels), kind))

    def _checked(self, column: str, fits: Callable[[Any], bool], kind: str) -> Any:
        if column not in self.columns:
            found = ", ".join(self.columns) or "none"
            raise InputError(f"{self.where}: no column {column!r}; its columns are: {found}")
        value = self.columns[column]
        if not fits(value):
            raise InputError(f"{self.where}: {column!r} must be {kind}, not {_short(value)}")
        return value


SETS = ("train", "calibration", "dev", "test")


@dataclass(frozen=True)
class RowSets:
    """The four row sets of a task; no row stands in two of them.

    Attributes:
        train: Items to fine-tune on.
        calibration: Items that score sublayers.
        dev: Items that watch training and stop rules.
        test: Items that are reported.
        dropped: Rows left out, by the split they were read from: they also stand in a set
            nearer to test, or the task finds them not `usable`.
        read: Rows that were there, by the split they were read from.
    """

    train: list[Item]
    calibration: list[Item]
    dev: list[Item]
    test: list[Item]
    dropped: dict[str, int]
    read: dict[str, int] = field(default_factory=dict)

    def fingerprints(self) -> dict[str, str]:
        """One hash per set, for the record of a run."""
        return {name: fingerprint(getattr(self, name)) for name in SETS}

    def counts(self) -> dict[str, int]:
        """Items per set, for the record of a run."""
        return {name: len(getattr(self, name)) for name in SETS}


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A row, who asks it, and what makes it the same as another.

    That is its text, whatever the order of the choices.
    """

    row: Row
    task: "Task"
    key: str


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
    metric: ClassVar[Literal["accuracy", "likelihood"]] = "accuracy"
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
        return _hub_rows(self.hub, self.config, split)

    def row_sets(
        self,
        root: Path | None,
        train: int | None = None,
        calibration: int = 50,
        dev: int = 100,
        test: int | None = None,
        seed: int = 0,
        prompt: str = "authors",
    ) -> RowSets:
        """Reads the rows and makes train, calibration, dev and test, which share no row.

        Each set is the beginning of an order that depends on the seed and on the rows' own text
        alone. So a larger number adds rows and takes none away, and the size of one held-out set
        does not change what another holds. The test items are the same, in the same order, under
        every seed: what several seeds come to is compared item by item.

        Args:
            root: Folder with `<split>.jsonl` or `<task>/<split>.jsonl`; without it the hub.
            train: Train rows at most, all if not given.
            calibration: Calibration rows.
            dev: Dev rows.
            test: Test rows at most, all if not given.
            seed: Seed of the choice of train, calibration and dev rows.
            prompt: One of `prompts`.

        Raises:
            InputError: The rows, their number or the prompt cannot work.
        """
        self.check_prompt(prompt)
        train_split, held_split, test_split = self.splits
        one_pool = train_split == held_split
        dropped = dict.fromkeys(self.splits, 0)
        test_rows = self._keyed(test_split, root, dropped)
        held_rows = self._keyed(held_split, root, dropped)
        read = {
            test_split: len(test_rows) + dropped[test_split],
            held_split: len(held_rows) + dropped[held_split],
        }
        held_rows = self._apart(held_rows, test_rows, held_split, dropped, unique=True)
        free_form = [keyed for keyed in held_rows if keyed.task.free_form]
        held = [keyed for keyed in held_rows if not keyed.task.free_form]
        trained_on = one_pool and not free_form  # these rows alone are the training rows, too
        if len(held) < calibration + dev + trained_on:
            raise InputError(
                f"task {self.name}: {held_split} has {len(held)} usable rows, too few for "
                f"{calibration} calibration and {dev} dev rows"
                f"{' and training' if trained_on else ''}; "
                "lower data.calibration_rows or data.dev_rows"
            )
        order = _order(held, seed, "held out")
        # taken from the two ends: the number of dev rows never touches the calibration rows
        calibration_rows, dev_rows = order[:calibration], order[::-1][:dev]
        if one_pool:
            train_rows = [*order[calibration : len(order) - dev], *free_form]
        else:
            train_rows = self._keyed(train_split, root, dropped)
            read[train_split] = len(train_rows) + dropped[train_split]
            train_rows = self._apart(train_rows, [*test_rows, *held], train_split, dropped)
            if not train_rows:
                raise InputError(f"task {self.name}: every {train_split} row also stands elsewhere")

        def items(rows: Sequence[_Keyed]) -> list[Item]:
            return [keyed.task._item(keyed.row, prompt) for keyed in rows]

        return RowSets(
            train=items(_order(train_rows, seed, "train")[:train]),
            calibration=items(calibration_rows),
            dev=items(dev_rows),
            test=items(_order(test_rows, TEST_SEED, "test")[:test]),
            dropped=dropped,
            read=read,
        )

    def test_items(
        self, root: Path | None, test: int | None = None, *, prompt: str = "authors"
    ) -> list[Item]:
        """The test set of `row_sets`, without reading the other splits."""
        self.check_prompt(prompt)
        rows = self._keyed(self.splits[2], root, dict.fromkeys(self.splits, 0))
        order = _order(rows, TEST_SEED, "test")
        return [keyed.task._item(keyed.row, prompt) for keyed in order[:test]]

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

    def _item(self, row: Row, prompt: str) -> Item:
        """An item that has been checked, in this prompt or in the only one that the row has."""
        item = self.item(row, prompt if prompt in self.prompts else self.prompts[0])
        problem = None
        if self.metric == "accuracy" and not self.free_form and len(item.choices) < 2:
            problem = f"{len(item.choices)} choices; a question needs two or more"
        elif not all(choice.strip() for choice in item.choices):
            problem = "an empty choice or text"
        elif not 0 <= item.gold < len(item.choices):
            problem = f"answer {item.gold} is out of range 0 to {len(item.choices) - 1}"
        elif self.own_rows and len({_fold(choice) for choice in item.choices}) < len(item.choices):
            problem = "two of the choices are the same"
        if problem:
            raise InputError(f"{row.where}: {problem}")
        return item

    def _keyed(self, split: str, root: Path | None, dropped: dict[str, int]) -> list[_Keyed]:
        """The usable rows of a split, checked, and each with its key; counts the others."""
        keyed = []
        for task in self.parts(split):
            for row in task.rows(split, root):
                if not task.usable(row):
                    dropped[split] += 1
                    continue
                item = task._item(row, task.prompts[0])
                texts = [_fold(item.context), *sorted(map(_fold, item.choices))]
                keyed.append(_Keyed(row, task, digest(json.dumps(texts))))
        return keyed

    def _apart(
        self,
        rows: list[_Keyed],
        nearer: list[_Keyed],
        split: str,
        dropped: dict[str, int],
        unique: bool = False,
    ) -> list[_Keyed]:
        """The rows that do not stand in the sets nearer to test; counts those that do.

        Args:
            rows: Rows of one split.
            nearer: Rows of the sets that are nearer to test.
            split: The name of the split.
            dropped: Where the others are counted.
            unique: Also leave out rows that repeat another one of `rows`: two sets will be
                carved from them.
        """
        seen = {keyed.key: keyed.row.where for keyed in nearer}
        apart, shared = [], []
        for keyed in rows:
            if keyed.key in seen:
                shared.append((keyed.row.where, seen[keyed.key]))
                continue
            apart.append(keyed)
            if unique:
                seen[keyed.key] = keyed.row.where
        if shared and self.own_rows:
            (here, there), more = shared[0], len(shared) - 1
            raise InputError(
                f"{here} is the same row as {there}{f' (and {more} more pairs)' if more else ''}; "
                "no row may stand in two row sets: remove one of the two"
            )
        dropped[split] += len(shared)
        return apart


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


def fingerprint(items: Iterable[Item]) -> str:
    """One hash of a row set, whatever the order of its items."""
    return digest("\n".join(sorted(item.hash for item in items)))


def task_names() -> list[str]:
    """The tasks there are: the names of the files in this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load_task(name: str) -> Task:
    """Makes a task.

    Args:
        name: A file in this folder; behind a slash one part of it, as `mmlu_law/jurisprudence`.

    Raises:
        InputError: There is no such task.
    """
    name, slash, part_name = name.partition("/")
    if name not in task_names():
        raise InputError(
            f"no task {name!r}; there are {', '.join(task_names())}. "
            "Your own rows: task jsonl (multiple choice) or text, with data.root"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    (task,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Task)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    )
    if not slash:
        return task()
    parts = {part.name.rpartition("/")[2]: part for part in task().parts(task.splits[2])}
    if part_name not in parts:
        raise InputError(f"task {name} has no part {part_name!r}; there are {', '.join(parts)}")
    return parts[part_name]


def read_jsonl(path: Path) -> list[Row]:
    """Reads the rows of a `.jsonl` file.

    Raises:
        InputError: The file is missing, empty, not UTF-8 or not one JSON object a line.
    """
    rows, where = [], str(path)
    try:
        with path.open("rb") as lines:  # bytes, so that a line that is not UTF-8 has a number
            for number, line in enumerate(lines, start=1):
                where = f"{path}:{number}"
                # utf-8-sig: some editors begin a file with a byte order mark
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                columns = json.loads(text)
                if not isinstance(columns, dict):
                    raise InputError(f"{where}: a row must be an object, not {_short(columns)}")
                rows.append(Row(columns, where))
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, where a .jsonl file should be") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _hub_rows(data_set: str, config: str | None, split: str) -> list[Row]:
    """The rows of a split of a data set on the Hugging Face hub, or in its local cache."""
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        # a quick question first: `load_dataset` would retry a dead network for half a minute
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(data_set, timeout=HUB_SECONDS)
        try:
            rows: Any = load_dataset(data_set, config, split=split)
        except RuntimeError as error:
            if "scripts" not in str(error):
                raise
            # an old data set with code of its own, which is not run: the hub's own conversion
            rows = load_dataset(data_set, config, split=split, revision=HUB_PARQUET)
    except Exception as error:  # of whatever library below: each means that there are no rows
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"cannot get {data_set} from the Hugging Face hub ({reason}); give local .jsonl files "
            "with data.root, or set HF_HUB_OFFLINE=1 if the data set is in the local cache"
        ) from error
    where = " ".join(filter(None, (data_set, config, split)))
    return [Row(row, f"{where} row {i}") for i, row in enumerate(rows.to_list())]


def _order(rows: Iterable[_Keyed], seed: int, purpose: str) -> list[_Keyed]:
    """A shuffle in which a row's place depends on its own text, not on its neighbours."""
    return sorted(rows, key=lambda keyed: digest(f"{seed} {purpose} {keyed.key}"))


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def digest(text: str) -> str:
    """A short hash of a text, the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."

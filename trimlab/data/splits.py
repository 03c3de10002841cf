"""The four row sets of a task: train, calibration, dev and test.

No row is in two of them. Two rows are the same if their context and choices are, whatever the white
space, the order of the choices and, in published benchmarks, the case. A row that is in two splits
stays in the one nearest to test: test before held-out before train.

Calibration and dev are carved from the held-out split, which may be the train split. Every set is
the beginning of a fixed order of its rows. The order depends on the seed and on the text of the
rows, not on their order in the file. A larger set therefore contains a smaller one, and the size of
one held-out set does not change the other. The order of the test rows does not depend on the seed,
so that runs with different seeds can be compared item by item.

Rows of the user's own may be a single file. A share of them is the test set, chosen by a hash of
the prompt of a row (of its text, without a prompt): rows with the same prompt are in one set, and a
row stays in its set when others are added. Neither the labels of a classification nor the template
of a chat decide anything. The other rows are the train split, from which calibration and dev are
carved: rows with the same prompt stand together in the order that they are cut from, so that no
more than one prompt is divided at either cut.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trimlab.data.checked_rows import Split, check_faults, notes_on, read_splits, unread_columns
from trimlab.data.items import Item, fingerprint
from trimlab.data.keyed_rows import KEYED, items_of, ordered
from trimlab.data.source import DataSource
from trimlab.data.task import Layout, Task
from trimlab.errors import InputError

TEST_SEED = 0  # of the order of the test rows, whatever the seed of a run
SETS = ("train", "calibration", "dev", "test")


@dataclass(frozen=True)
class RowSets:
    """The four row sets of a task; no row is in two of them.

    Attributes:
        train: Items to fine-tune on.
        calibration: Items that score sublayers.
        dev: Items for validation during training and for stop rules.
        test: Items of the reported result.
        dropped: Number of rows left out, by split: they are in a set nearer to test as well, or
            not `usable`.
        read: Number of rows read, by split.
        skipped: Number of faulty rows left out, by split.
        unread_columns: Columns of the user's own rows that the task does not read.
        notes: Sentences for the user about what was not used.
    """

    train: list[Item]
    calibration: list[Item]
    dev: list[Item]
    test: list[Item]
    dropped: dict[str, int]
    read: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    unread_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def fingerprints(self) -> dict[str, str]:
        """One hash per set, for the record of a run."""
        return {name: fingerprint(getattr(self, name)) for name in SETS}

    def counts(self) -> dict[str, int]:
        """Items per set, for the record of a run."""
        return {name: len(getattr(self, name)) for name in SETS}


def read_row_sets(
    task: Task,
    source: DataSource | Path | None,
    train: int | None = None,
    calibration: int = 50,
    dev: int = 100,
    test: int | None = None,
    seed: int = 0,
    prompt: str = "authors",
    *,
    progress: bool = False,
) -> RowSets:
    """Reads the rows of a task and makes its four row sets.

    Args:
        task: The task.
        source: The source of the rows, or its root: a folder with `<split>.jsonl` or
            `<task>/<split>.jsonl`; without it the hub.
        train: Most train rows; all if not given.
        calibration: Number of calibration rows.
        dev: Number of dev rows.
        test: Most test rows; all if not given.
        seed: Seed of the choice of train, calibration and dev rows.
        prompt: One of the task's prompts.
        progress: Show bars on a terminal.

    Raises:
        InputError: The rows cannot be read or used, there are too few of them, or the task has
            no such prompt.
    """
    task.check_prompt(prompt)
    source = DataSource.of(source)
    splits, names = _read(task, source, task.layout(source), progress=progress)
    train_split, test_split = names["train"], names["test"]
    held_out_split = names.get("validation", train_split)
    one_pool = train_split == held_out_split
    test_rows, held_out = splits[test_split].rows, splits[held_out_split]
    held_out.leave_out(test_rows, unique=True)
    without_choices = np.array([part.free_form for part, _ in held_out.sources])
    is_free_form = without_choices[held_out.rows["source"]]
    free_form, carved = held_out.rows[is_free_form], held_out.rows[~is_free_form]
    if not one_pool:
        splits[train_split].leave_out(np.concatenate([test_rows, carved]))
    check_faults(splits, source)
    needed = {"calibration": calibration, "dev": dev, "train": int(one_pool and not len(free_form))}
    _check_size(task, held_out_split, len(carved), **needed)
    order = ordered(carved, seed, "held out", by_prompt=one_pool and task.own_rows)
    train_rows = splits[train_split].rows
    if one_pool:
        train_rows = np.concatenate([order[calibration : len(order) - dev], free_form])
    if not len(train_rows):
        raise InputError(f"task {task.name}: every {train_split} row also stands elsewhere")
    chosen = {
        "train": ordered(train_rows, seed, "train")[:train],
        # one set from either end: the number of dev rows does not change the calibration rows
        "calibration": order[:calibration],
        "dev": order[::-1][:dev],
        "test": ordered(test_rows, TEST_SEED, "test")[:test],
    }
    return RowSets(
        **{name: items_of(rows, held_out.sources, prompt) for name, rows in chosen.items()},
        dropped={name: splits[name].dropped for name in (train_split, held_out_split, test_split)},
        read={name: split.read for name, split in splits.items()},
        skipped={name: s.faults.count for name, s in splits.items() if s.faults.count},
        unread_columns=unread_columns(splits),
        notes=notes_on(splits, task),
    )


@dataclass(frozen=True)
class ReportedSet:
    """The test set of a task alone.

    Attributes:
        items: Its items.
        notes: Sentences for the user about what was not used.
    """

    items: list[Item]
    notes: tuple[str, ...]


def read_test_items(
    task: Task,
    source: DataSource | Path | None,
    test: int | None = None,
    *,
    prompt: str = "authors",
) -> list[Item]:
    """The items of `read_test_set`."""
    return read_test_set(task, source, test, prompt=prompt).items


def read_test_set(
    task: Task,
    source: DataSource | Path | None,
    test: int | None = None,
    *,
    prompt: str = "authors",
) -> ReportedSet:
    """Reads the test set of `read_row_sets`; the faults of other rows do not matter.

    Raises:
        InputError: The rows cannot be read or used, or the task has no such prompt.
    """
    task.check_prompt(prompt)
    source = DataSource.of(source)
    names = task.layout(source, needed=("test",))
    splits, names = _read(task, source, names, only_test=True)
    check_faults(splits, source)
    split = splits[names["test"]]
    order = ordered(split.rows, TEST_SEED, "test")
    return ReportedSet(items_of(order[:test], split.sources, prompt), notes_on(splits, task))


def _read(
    task: Task,
    source: DataSource,
    names: Layout,
    *,
    only_test: bool = False,
    progress: bool = False,
) -> tuple[dict[str, Split], Layout]:
    """Reads splits; the rows of a single one become a train and a test split.

    Args:
        task: The task.
        source: The source of the rows.
        names: Names of the splits, by `train`, `validation` and `test`.
        only_test: The items of other rows are not needed.
        progress: Show bars on a terminal.

    Returns:
        The splits by name, and the names of the splits.
    """
    if not (task.own_rows and names.get("train") == names["test"]):
        used = [names[role] for role in ("test", "validation", "train") if role in names]
        used = used[: 1 if only_test else None]
        return read_splits(task, source, names, used, progress=progress), names
    names = {"train": names["train"]}
    splits = read_splits(task, source, names, [*names.values()], progress=progress)
    (pool,) = splits.values()
    pool.leave_out(np.empty(0, KEYED), unique=True)
    check_faults(splits, source)
    test = pool.split_off(source.test_share)
    return {"train": pool, "test": test}, {"train": "train", "test": "test"}


def _check_size(
    task: Task, split: str, there: int, *, calibration: int, dev: int, train: int
) -> None:
    """Checks that a held-out split suffices for calibration and dev, and for `train` train rows."""
    if there < calibration + dev + train:
        raise InputError(
            f"task {task.name}: {split} has {there} usable rows, too few for "
            f"{calibration} calibration and {dev} dev rows{' and training' if train else ''}"
            "; lower data.calibration_rows or data.dev_rows"
        )

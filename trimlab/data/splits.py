"""The four row sets of a task: train, calibration, dev and test.

No row stands in two of them. Calibration and dev are carved from the held-out split, which may be
the train split. Each set is the beginning of an order that depends on the seed and on the rows'
own text alone. So a larger number adds rows and takes none away, and the size of one held-out set
does not change what another holds. The test items are the same, in the same order, under every
seed: what several seeds come to is compared item by item.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimlab.data.items import Item, digest, fingerprint, fold
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.errors import InputError

TEST_SEED = 0  # the order of the test items, whatever the seed of a run
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


def read_row_sets(
    task: Task,
    root: Path | None,
    train: int | None = None,
    calibration: int = 50,
    dev: int = 100,
    test: int | None = None,
    seed: int = 0,
    prompt: str = "authors",
) -> RowSets:
    """Reads the rows of a task and makes its four row sets.

    Args:
        task: The task.
        root: Folder with `<split>.jsonl` or `<task>/<split>.jsonl`; without it the hub.
        train: Train rows at most, all if not given.
        calibration: Calibration rows.
        dev: Dev rows.
        test: Test rows at most, all if not given.
        seed: Seed of the choice of train, calibration and dev rows.
        prompt: One of the task's prompts.

    Raises:
        InputError: The rows, their number or the prompt cannot work.
    """
    task.check_prompt(prompt)
    train_split, held_out_split, test_split = task.splits
    one_pool = train_split == held_out_split
    splits = {name: _read(task, name, root) for name in dict.fromkeys((test_split, held_out_split))}
    test_rows, held_out = splits[test_split].rows, splits[held_out_split]
    held_out.leave_out(test_rows, unique=True)
    free_form = [keyed for keyed in held_out.rows if keyed.task.free_form]
    carved = [keyed for keyed in held_out.rows if not keyed.task.free_form]
    _check_size(task, len(carved), calibration, dev, one_pool and not free_form)
    order = _order(carved, seed, "held out")
    # from the two ends: the number of dev rows never changes the calibration rows
    calibration_rows, dev_rows = order[:calibration], order[::-1][:dev]
    if one_pool:
        train_rows = [*order[calibration : len(order) - dev], *free_form]
    else:
        splits[train_split] = trained = _read(task, train_split, root)
        trained.leave_out([*test_rows, *carved])
        train_rows = trained.rows
        if not train_rows:
            raise InputError(f"task {task.name}: every {train_split} row also stands elsewhere")
    return RowSets(
        train=_items(_order(train_rows, seed, "train")[:train], prompt),
        calibration=_items(calibration_rows, prompt),
        dev=_items(dev_rows, prompt),
        test=_items(_order(test_rows, TEST_SEED, "test")[:test], prompt),
        dropped={name: splits[name].dropped if name in splits else 0 for name in task.splits},
        read={name: split.read for name, split in splits.items()},
    )


def read_test_items(
    task: Task, root: Path | None, test: int | None = None, *, prompt: str = "authors"
) -> list[Item]:
    """The test set of `read_row_sets`, without reading the other splits."""
    task.check_prompt(prompt)
    rows = _read(task, task.splits[2], root).rows
    return _items(_order(rows, TEST_SEED, "test")[:test], prompt)


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A row, the task that asks it, and a hash of its text, whatever the order of the choices."""

    row: Row
    task: Task
    key: str


class _Split:
    """The usable rows of a split, checked.

    Args:
        name: The name of the split.
        own_rows: The rows are the user's: one that also stands elsewhere is refused.
        rows: The rows.
        dropped: Rows that are not usable.
    """

    def __init__(self, name: str, own_rows: bool, rows: list[_Keyed], dropped: int):
        self.name, self.own_rows, self.rows, self.dropped = name, own_rows, rows, dropped
        self.read = len(rows) + dropped

    def leave_out(self, nearer: Iterable[_Keyed], unique: bool = False) -> None:
        """Leaves out rows of the sets nearer to test, and counts them.

        Args:
            nearer: Rows of the sets that are nearer to test.
            unique: Also leave out rows that repeat another one of this split: two sets will be
                carved from it.

        Raises:
            InputError: There is such a row, and the rows are the user's.
        """
        seen = {keyed.key: keyed.row.where for keyed in nearer}
        apart, shared = [], []
        for keyed in self.rows:
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
        self.rows = apart
        self.dropped += len(shared)


def _read(task: Task, name: str, root: Path | None) -> _Split:
    keyed, dropped = [], 0
    for part in task.parts(name):
        for row in part.rows(name, root):
            if not part.usable(row):
                dropped += 1
                continue
            item = part.checked_item(row, part.prompts[0])
            texts = [fold(item.context), *sorted(map(fold, item.choices))]
            keyed.append(_Keyed(row, part, digest(json.dumps(texts))))
    return _Split(name, task.own_rows, keyed, dropped)


def _check_size(task: Task, there: int, calibration: int, dev: int, and_training: bool) -> None:
    if there < calibration + dev + and_training:
        raise InputError(
            f"task {task.name}: {task.splits[1]} has {there} usable rows, too few for "
            f"{calibration} calibration and {dev} dev rows{' and training' if and_training else ''}"
            "; lower data.calibration_rows or data.dev_rows"
        )


def _items(rows: Sequence[_Keyed], prompt: str) -> list[Item]:
    return [keyed.task.checked_item(keyed.row, prompt) for keyed in rows]


def _order(rows: Iterable[_Keyed], seed: int, purpose: str) -> list[_Keyed]:
    """A shuffle in which a row's place depends on its own text, not on its neighbours."""
    return sorted(rows, key=lambda keyed: digest(f"{seed} {purpose} {keyed.key}"))

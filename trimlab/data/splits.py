"""The four row sets of a task: train, calibration, dev and test.

No row is in two of them. Two rows are the same if their context and choices are, whatever the case,
the white space and the order of the choices. A row that is in two splits stays in the one nearest
to test: test before held-out before train.

Calibration and dev are carved from the held-out split, which may be the train split. Every set is
the beginning of a fixed order of its rows. The order depends on the seed and on the text of the
rows, not on their order in the file. A larger set therefore contains a smaller one, and the size of
one held-out set does not change the other. The order of the test rows does not depend on the seed,
so that runs with different seeds can be compared item by item.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimlab.data.items import Item, digest, fingerprint, fold
from trimlab.data.rows import Row
from trimlab.data.task import Task
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
        train: Most train rows; all if not given.
        calibration: Number of calibration rows.
        dev: Number of dev rows.
        test: Most test rows; all if not given.
        seed: Seed of the choice of train, calibration and dev rows.
        prompt: One of the task's prompts.

    Raises:
        InputError: The rows cannot be read or used, there are too few of them, or the task has
            no such prompt.
    """
    task.check_prompt(prompt)
    train_split, held_out_split, test_split = task.splits
    one_pool = train_split == held_out_split
    splits = {name: _read(task, name, root) for name in dict.fromkeys((test_split, held_out_split))}
    test_rows, held_out = splits[test_split].rows, splits[held_out_split]
    held_out.leave_out(test_rows, unique=True)
    free_form = [keyed for keyed in held_out.rows if keyed.task.free_form]
    carved = [keyed for keyed in held_out.rows if not keyed.task.free_form]
    _check_size(task, len(carved), calibration, dev, training=one_pool and not free_form)
    order = _order(carved, seed, "held out")
    # one set from either end: the number of dev rows does not change the calibration rows
    calibration_rows, dev_rows = order[:calibration], order[::-1][:dev]
    if one_pool:
        train_rows = [*order[calibration : len(order) - dev], *free_form]
    else:
        splits[train_split] = training = _read(task, train_split, root)
        training.leave_out([*test_rows, *carved])
        train_rows = training.rows
        if not train_rows:
            raise InputError(f"task {task.name}: every {train_split} row also stands elsewhere")
    return RowSets(
        train=_items(_order(train_rows, seed, "train")[:train], prompt),
        calibration=_items(calibration_rows, prompt),
        dev=_items(dev_rows, prompt),
        test=_items(_order(test_rows, TEST_SEED, "test")[:test], prompt),
        dropped={name: splits[name].dropped for name in task.splits},
        read={name: split.read for name, split in splits.items()},
    )


def read_test_items(
    task: Task, root: Path | None, test: int | None = None, *, prompt: str = "authors"
) -> list[Item]:
    """Reads the test set of `read_row_sets` without the other splits."""
    task.check_prompt(prompt)
    rows = _read(task, task.splits[2], root).rows
    return _items(_order(rows, TEST_SEED, "test")[:test], prompt)


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A row with its task (a part of the task, in a mixture) and its key, equal for equal rows."""

    row: Row
    task: Task
    key: str


class _Split:
    """The checked, usable rows of a split.

    Args:
        own_rows: The rows are the user's own: `leave_out` refuses them instead of dropping them.
        rows: The rows.
        dropped: Number of rows that are not usable.
    """

    def __init__(self, own_rows: bool, rows: list[_Keyed], dropped: int):
        self.own_rows, self.rows, self.dropped = own_rows, rows, dropped
        self.read = len(rows) + dropped

    def leave_out(self, nearer: Iterable[_Keyed], unique: bool = False) -> None:
        """Drops and counts the rows that are also in sets nearer to test.

        Args:
            nearer: Rows of those sets.
            unique: Also drop repetitions within this split, because two sets are carved from it.

        Raises:
            InputError: There are such rows, and they are the user's own.
        """
        seen = {keyed.key: keyed.row.where for keyed in nearer}
        kept, shared = [], []
        for keyed in self.rows:
            if keyed.key in seen:
                shared.append((keyed.row.where, seen[keyed.key]))
                continue
            kept.append(keyed)
            if unique:
                seen[keyed.key] = keyed.row.where
        if shared and self.own_rows:
            (here, there), more = shared[0], len(shared) - 1
            raise InputError(
                f"{here} is the same row as {there}{f' (and {more} more pairs)' if more else ''}; "
                "no row may stand in two row sets: remove one of the two"
            )
        self.rows = kept
        self.dropped += len(shared)


def _read(task: Task, name: str, root: Path | None) -> _Split:
    """Reads and checks the rows of a split."""
    keyed, dropped = [], 0
    for part in task.parts(name):
        for row in part.rows(name, root):
            if not part.usable(row):
                dropped += 1
                continue
            # the first prompt, so that the key does not depend on the prompt of a run
            item = part.checked_item(row, part.prompts[0])
            texts = [fold(item.context), *sorted(map(fold, item.choices))]
            keyed.append(_Keyed(row, part, digest(json.dumps(texts))))
    return _Split(task.own_rows, keyed, dropped)


def _check_size(task: Task, there: int, calibration: int, dev: int, *, training: bool) -> None:
    """Checks that a held-out split suffices for calibration, dev and (`training`) one train row."""
    if there < calibration + dev + training:
        raise InputError(
            f"task {task.name}: {task.splits[1]} has {there} usable rows, too few for "
            f"{calibration} calibration and {dev} dev rows{' and training' if training else ''}"
            "; lower data.calibration_rows or data.dev_rows"
        )


def _items(rows: Sequence[_Keyed], prompt: str) -> list[Item]:
    return [keyed.task.checked_item(keyed.row, prompt) for keyed in rows]


def _order(rows: Iterable[_Keyed], seed: int, purpose: str) -> list[_Keyed]:
    """Shuffles rows. The place of a row depends on its own text, not on the other rows."""
    return sorted(rows, key=lambda keyed: digest(f"{seed} {purpose} {keyed.key}"))

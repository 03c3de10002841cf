"""The usable rows of the splits of a task, and the faults of the others.

All faults are collected before the first is reported. `data.bad_rows` decides whether they end the
run or are left out and counted.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from itertools import islice

import numpy as np
from tqdm.auto import tqdm

from trimlab.data.faults import Faults
from trimlab.data.keyed_rows import KEYED, Source, hashed, keys_of, repeated
from trimlab.data.rows import Columns, Row, Rows
from trimlab.data.source import DataSource
from trimlab.data.task import Task
from trimlab.errors import InputError

BAR_DELAY = 3  # seconds before a bar is shown


@dataclass
class Split:
    """The rows of a split.

    Attributes:
        own_rows: The rows are the user's own: repeated rows are faults, see `leave_out`.
        sources: The sources of this and other splits.
        rows: The usable rows, see `trimlab.data.keyed_rows`.
        read: Number of rows read.
        dropped: Number of rows of a published benchmark that were left out.
        faults: Those of rows that cannot be used.
        columns: Columns of the rows, in order.
        asked: Columns that the task has looked up, in this or another split.
        replaced: Columns that those of `data.columns` take the place of.
        file: The file or data set, for messages.
        origin: The rows that it is a share of, for the user.
    """

    own_rows: bool
    sources: list[Source]
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, KEYED))
    read: int = 0
    dropped: int = 0
    faults: Faults = field(default_factory=Faults)
    columns: dict[str, None] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    replaced: dict[str, None] = field(default_factory=dict)
    file: str = ""
    origin: str = ""

    def add(self, source: Source, bar: Callable[[Rows], Iterable[Row]]) -> None:
        """Checks the rows of a source, and keeps each or the reason why it cannot be used.

        Args:
            source: The source.
            bar: Iterates over its rows, and shows how far that is.
        """
        entries, number = array("Q"), len(self.sources)
        self.sources.append(source)
        for index, row in enumerate(bar(source.rows)):
            self.read += 1
            if isinstance(row.columns, Columns):
                self.columns |= dict.fromkeys(row.columns)
                self.replaced |= dict.fromkeys(row.columns.replaced)
                self.file = self.file or _file(row)
            try:
                if keys := _keys(row, source.task):
                    entries.extend((number, index, *keys))
                else:
                    self.dropped += 1
            except InputError as fault:
                self.faults.add([str(fault)])
        self.rows = np.concatenate([self.rows, np.asarray(entries).view(KEYED)])

    def leave_out(self, nearer: np.ndarray, unique: bool = False) -> None:
        """Leaves out the rows that are also in sets nearer to test.

        Those of a published benchmark are counted; those of the user's own are faults.

        Args:
            nearer: Rows of those sets.
            unique: Also leave out repetitions within this split, because two sets are carved
                from it.
        """
        out = repeated(self.rows, nearer, unique)
        count = int(out.sum())
        if self.own_rows:
            self.faults.add((self._repetition(row, nearer) for row in self.rows[out]), count)
        else:
            self.dropped += count
        self.rows = self.rows[~out]

    def _repetition(self, row: np.void, nearer: np.ndarray) -> str:
        """The fault of a row that repeats one of sets nearer to test or an earlier one."""
        others = nearer[nearer["key"] == row["key"]]
        other = others[-1] if len(others) else self.rows[self.rows["key"] == row["key"]][0]
        here, there = self._where(row), self._where(other)
        if row["answer"] != other["answer"]:
            return (
                f"{here} has the text and choices of {there} and another answer; keep one of them"
            )
        return f"{here} is the same row as {there}; no row may stand in two row sets"

    def _where(self, row: np.void) -> str:
        return self.sources[int(row["source"])].rows[int(row["index"])].where

    def split_off(self, share: float) -> "Split":
        """Moves a share of the prompts, chosen by their own text, to a new split with their rows.

        Where all rows have the same prompt, the rest of a row decides.

        Raises:
            InputError: One of the two would be empty.
        """
        limit, count = int(share * 16**16), len(self.rows)
        prompts = len(np.unique(self.rows["prompt_key"]))
        deciding = self.rows["prompt_key" if prompts > 1 else "order_key"]
        moved = hashed(deciding, "test set") < limit
        if moved.all() or not moved.any():
            few = f" with {prompts} prompts" if 1 < prompts < count else ""
            raise InputError(
                f"{self.file}: {count} rows{few} are too few for a test set; give more rows, "
                "another data.test_share, or a folder with train.jsonl and test.jsonl"
            )
        rows, n = self.rows[moved], int(moved.sum())
        self.rows = self.rows[~moved]
        self.read -= n
        origin = f"{n} of the {count} rows of {self.file} are the test set (data.test_share)"
        return replace(self, rows=rows, read=n, faults=Faults(), origin=origin)


def read_splits(
    task: Task,
    source: DataSource,
    names: Mapping[str, str],
    used: Sequence[str],
    *,
    progress: bool = False,
) -> dict[str, Split]:
    """Reads and checks the rows of splits.

    Args:
        task: The task.
        source: The source of the rows.
        names: Names of the splits, by `train`, `validation` and `test`.
        used: Names of the splits whose rows become items. Others are read for `Task.survey`.
        progress: Show bars on a terminal.

    Raises:
        InputError: The rows cannot be read.
    """
    rows = {
        name: [Source(part, part.rows(name, source)) for part in task.parts(name)]
        for name in dict.fromkeys([*used, *(names.values() if task.own_rows else ())])
    }
    surveyed = {
        role: _Readable([found for _, found in rows.get(name, ())], _bar(f"read {name}", progress))
        for role, name in names.items()
    }
    fitted = task.survey(surveyed, source)
    splits, sources = dict[str, Split](), list[Source]()
    for name in dict.fromkeys(used):
        splits[name] = split = Split(task.own_rows, sources)
        for part, found in rows[name]:
            one = Source(fitted if part is task else part, found)
            split.add(one, _bar(f"check {name}", progress))
    # one record for all rows of a source; also of splits that only `survey` has read
    firsts = (row for parts in rows.values() for _, found in parts for row in islice(found, 1))
    asked = set[str]().union(
        *(row.columns.asked for row in firsts if isinstance(row.columns, Columns))
    )
    for split in splits.values():
        split.asked = asked
    return splits


@dataclass(frozen=True)
class _Readable:
    """Rows that could be read, of one source after another. They can be iterated over again."""

    sources: Sequence[Rows]
    bar: Callable[[Rows], Iterable[Row]]

    def __iter__(self) -> Iterator[Row]:
        return (row for rows in self.sources for row in self.bar(rows) if row.fault is None)


def _bar(name: str, progress: bool) -> Callable[[Rows], Iterable[Row]]:
    """A bar that appears where reading takes seconds."""
    quiet = None if progress else True  # None: a bar only on a terminal
    return partial(tqdm, desc=name, unit="row", delay=BAR_DELAY, leave=False, disable=quiet)


def _keys(row: Row, task: Task) -> tuple[int, ...] | None:
    """The hashes of a row; None if it is not `usable`.

    Raises:
        InputError: The row cannot be used.
    """
    if row.fault is not None:
        raise InputError(f"{row.where}: {row.fault}")
    return keys_of(row, task.checked_item(row, task.prompts[0]), task) if task.usable(row) else None


def check_faults(splits: Mapping[str, Split], source: DataSource) -> None:
    """Ends the run because of faulty rows, unless they are to be skipped.

    Raises:
        InputError: There are faults and `data.bad_rows` is `error`, or no other rows are left.
    """
    faults = Faults()
    for split in splits.values():
        faults.add(split.faults.first, split.faults.count)
    if not faults.count:
        return
    if source.bad_rows == "error":
        count = "" if faults.count == 1 else f"{faults.count} faulty rows: "
        raise InputError(f"{count}{faults}; data.bad_rows skip leaves faulty rows out")
    for name, split in splits.items():
        if split.faults.count and not len(split.rows):
            raise InputError(f"no row of {name} can be used: {split.faults}")


def notes_on(splits: Mapping[str, Split], task: Task) -> tuple[str, ...]:
    """A sentence for everything in the rows that was not used."""
    first = next(((s, s.rows[0]) for s in splits.values() if len(s.rows)), None)
    notes = [*first[0].sources[int(first[1]["source"])].task.notes] if first else []
    for name, split in splits.items():
        if split.faults.count:
            read = sum(other.read for other in splits.values() if other.file == split.file)
            count = f"{split.faults.count} of {read} rows"
            notes.append(f"skipped {count} of {split.file or name}: {split.faults}")
        if split.origin:
            notes.append(split.origin)
    present = {column for split in splits.values() for column in split.columns}
    asked = {column for split in splits.values() for column in split.asked}
    named = set[str]()
    for split in splits.values():
        unread = [column for column in split.columns if column not in asked | named]
        named |= set(unread)
        for column in [column for column in split.replaced if column not in named]:
            named.add(column)
            notes.append(
                f"column {column!r} of {split.file} is not read: data.columns reads another in its "
                "place"
            )
        notes += _unread_notes(unread, split.file, sorted(asked - present), task.name)
    return tuple(notes)


def unread_columns(splits: Mapping[str, Split]) -> tuple[str, ...]:
    """Columns of the user's own rows that the task has not looked up."""
    asked = {column for split in splits.values() for column in split.asked}
    found = dict.fromkeys(column for split in splits.values() for column in split.columns)
    return tuple(column for column in found if column not in asked)


def _unread_notes(
    unread: Sequence[str], file: str, absent: Sequence[str], task: str
) -> Iterator[str]:
    """Names unread columns, each with the nearest name that the task has looked up in vain.

    Args:
        unread: Columns that are there and that the task has not looked up.
        file: The file of the columns.
        absent: Columns that the task has looked up and that are not there.
        task: Name of the task.
    """
    near = {column: get_close_matches(column, absent, n=1) for column in unread}
    for column, names in near.items():
        if names:
            yield f"column {column!r} of {file} is not read; did you mean {names[0]!r}?"
    others = [column for column, names in near.items() if not names]
    if others:
        columns = f"column {others[0]!r}" if len(others) == 1 else f"columns {_list(others)}"
        verb = "is" if len(others) == 1 else "are"
        also = f"; task {task} also reads {_list(absent)}" if absent else ""
        yield f"{columns} of {file} {verb} not read{also}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _file(row: Row) -> str:
    """The file or data set of a row."""
    return row.where.rpartition(" row ")[0] or row.where.rpartition(":")[0]

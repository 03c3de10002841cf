"""The usable rows of the splits of a task, and the faults of the others.

All faults are collected before the first is reported. `data.bad_rows` decides whether they end the
run or are left out and counted.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from trimlab.data.items import digest, fold, plain
from trimlab.data.rows import Columns, Row
from trimlab.data.source import DataSource
from trimlab.data.task import Task
from trimlab.errors import InputError

NAMED = 5  # faults that a message names


@dataclass(frozen=True, slots=True)
class KeyedRow:
    """A row with its task, and keys that are compared with those of other rows.

    Attributes:
        row: The row.
        task: Its task; a part of the task, in a mixture.
        key: Equal for equal rows.
        answer: Its right choice, with every run of white space as one space.
        order_key: Decides where the row stands in every order. Equal for rows that differ in case
            alone.
        prompt_key: Equal for rows with the same prompt, but for case and white space; of a row
            without a prompt, its `order_key`.
    """

    row: Row
    task: Task
    key: str
    answer: str
    order_key: str
    prompt_key: str


@dataclass
class Split:
    """The rows of a split.

    Attributes:
        own_rows: The rows are the user's own: repeated rows are faults, see `leave_out`.
        rows: The usable rows.
        read: Number of rows read.
        dropped: Number of rows of a published benchmark that were left out.
        faults: Place and reason, of rows that cannot be used.
        columns: Columns of the rows, in order.
        asked: Columns that the task has looked up, in this or another split.
        replaced: Columns that those of `data.columns` take the place of.
        file: The file or data set, for messages.
        origin: The rows that it is a share of, for the user.
    """

    own_rows: bool
    rows: list[KeyedRow] = field(default_factory=list)
    read: int = 0
    dropped: int = 0
    faults: list[str] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    replaced: dict[str, None] = field(default_factory=dict)
    file: str = ""
    origin: str = ""

    def add(self, row: Row, part: Task) -> None:
        """Checks a row, and keeps it or the reason why it cannot be used."""
        self.read += 1
        if isinstance(row.columns, Columns):
            self.columns |= dict.fromkeys(row.columns)
            self.replaced |= dict.fromkeys(row.columns.replaced)
            self.file = self.file or _file(row)
        try:
            if row.fault is not None:
                raise InputError(f"{row.where}: {row.fault}")
            if not part.usable(row):
                self.dropped += 1
                return
            # the first prompt, so that the key does not depend on the prompt of a run
            item = part.checked_item(row, part.prompts[0])
        except InputError as fault:
            self.faults.append(str(fault))
            return
        # lower and upper case differ in formulas, genotypes and units: the user's own rows are
        # the same only if they are written so
        key = _key(item.context, item.choices, plain if self.own_rows else fold)
        prompt, others = part.key_texts(row, item)
        order_key = _key(prompt, others, fold)
        answer = plain(item.choices[item.gold])
        prompt_key = _key(prompt, (), fold) if fold(prompt) else order_key
        self.rows.append(
            KeyedRow(
                row,
                part,
                key=key,
                answer=answer,
                order_key=order_key,
                prompt_key=prompt_key,
            )
        )

    def leave_out(self, nearer: Iterable[KeyedRow], unique: bool = False) -> None:
        """Leaves out the rows that are also in sets nearer to test.

        Those of a published benchmark are counted; those of the user's own are faults.

        Args:
            nearer: Rows of those sets.
            unique: Also leave out repetitions within this split, because two sets are carved
                from it.
        """
        seen = {keyed.key: keyed for keyed in nearer}
        kept = []
        for keyed in self.rows:
            other = seen.get(keyed.key)
            if other is None:
                kept.append(keyed)
                if unique:
                    seen[keyed.key] = keyed
            elif self.own_rows:
                self.faults.append(_repetition(keyed, other))
            else:
                self.dropped += 1
        self.rows = kept

    def split_off(self, share: float) -> "Split":
        """Moves a share of the prompts, chosen by their own text, to a new split with their rows.

        Where all rows have the same prompt, the rest of a row decides.

        Raises:
            InputError: One of the two would be empty.
        """
        limit, count = int(share * 16**16), len(self.rows)
        prompts = {keyed.prompt_key for keyed in self.rows}
        parts: tuple[list[KeyedRow], list[KeyedRow]] = ([], [])
        for keyed in self.rows:
            text = keyed.prompt_key if len(prompts) > 1 else keyed.order_key
            parts[int(digest(f"test set {text}"), 16) < limit].append(keyed)
        if not all(parts):
            few = f" with {len(prompts)} prompts" if 1 < len(prompts) < count else ""
            raise InputError(
                f"{self.file}: {count} rows{few} are too few for a test set; give more rows, "
                "another data.test_share, or a folder with train.jsonl and test.jsonl"
            )
        self.rows, moved = parts
        self.read -= len(moved)
        origin = f"{len(moved)} of the {count} rows of {self.file} are the test set"
        origin += " (data.test_share)"
        return replace(self, rows=moved, read=len(moved), faults=[], origin=origin)


def read_splits(
    task: Task, source: DataSource, names: Mapping[str, str], used: Sequence[str]
) -> dict[str, Split]:
    """Reads and checks the rows of splits.

    Args:
        task: The task.
        source: The source of the rows.
        names: Names of the splits, by `train`, `validation` and `test`.
        used: Names of the splits whose rows become items. Others are read for `Task.survey`.

    Raises:
        InputError: The rows cannot be read.
    """
    rows = {
        name: [(part, part.rows(name, source)) for part in task.parts(name)]
        for name in dict.fromkeys([*used, *(names.values() if task.own_rows else ())])
    }
    surveyed = {
        role: [row for _, found in rows.get(name, ()) for row in found if row.fault is None]
        for role, name in names.items()
    }
    fitted = task.survey(surveyed, source)
    splits = {}
    for name in used:
        splits[name] = split = Split(task.own_rows)
        for part, found in rows[name]:
            for row in found:
                split.add(row, fitted if part is task else part)
    # one record for all rows of a source; also of splits that only `survey` has read
    asked = set[str]().union(
        *(
            row.columns.asked
            for parts in rows.values()
            for _, found in parts
            for row in found[:1]
            if isinstance(row.columns, Columns)
        )
    )
    for split in splits.values():
        split.asked = asked
    return splits


def check_faults(splits: Mapping[str, Split], source: DataSource) -> None:
    """Ends the run because of faulty rows, unless they are to be skipped.

    Raises:
        InputError: There are faults and `data.bad_rows` is `error`, or no other rows are left.
    """
    faults = [fault for split in splits.values() for fault in split.faults]
    if not faults:
        return
    if source.bad_rows == "error":
        count = "" if len(faults) == 1 else f"{len(faults)} faulty rows: "
        raise InputError(f"{count}{name_faults(faults)}; data.bad_rows skip leaves faulty rows out")
    for name, split in splits.items():
        if split.faults and not split.rows:
            raise InputError(f"no row of {name} can be used: {name_faults(split.faults)}")


def notes_on(splits: Mapping[str, Split], task: Task) -> tuple[str, ...]:
    """A sentence for everything in the rows that was not used."""
    notes = [*next((k.task.notes for s in splits.values() for k in s.rows), ())]
    for name, split in splits.items():
        if split.faults:
            read = sum(other.read for other in splits.values() if other.file == split.file)
            count = f"{len(split.faults)} of {read} rows"
            notes.append(f"skipped {count} of {split.file or name}: {name_faults(split.faults)}")
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


def name_faults(faults: Sequence[str]) -> str:
    """The first faults, and the number of the others."""
    more = len(faults) - NAMED
    return "; ".join(faults[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def _file(row: Row) -> str:
    """The file or data set of a row."""
    return row.where.rpartition(" row ")[0] or row.where.rpartition(":")[0]


def _repetition(keyed: KeyedRow, other: KeyedRow) -> str:
    """The fault of a row with the key of another one."""
    here, there = keyed.row.where, other.row.where
    if keyed.answer != other.answer:
        return f"{here} has the text and choices of {there} and another answer; keep one of them"
    return f"{here} is the same row as {there}; no row may stand in two row sets"


def _key(prompt: str, others: Iterable[str], form: Callable[[str], str]) -> str:
    return digest(json.dumps([form(prompt), *sorted(map(form, others))]))

"""Rows of the user's own: the splits that there are, and columns under the task's names."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trimlab.data.dataset_rows import hub_rows, hub_splits
from trimlab.data.readers import (
    read_file,
    readable_files,
    split_extension,
    split_file,
    task_folder,
)
from trimlab.data.rows import Columns, Row, Rows
from trimlab.data.source import DataSource
from trimlab.errors import InputError

# names of files and of splits on the hub
NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
MISSING = object()


def find_splits(source: DataSource, task: str, needed: Sequence[str]) -> dict[str, str]:
    """The splits of the user's own rows.

    Args:
        source: The source of the rows.
        task: Name of the task; `<root>/<task>` is the folder, if it exists.
        needed: Those of `train`, `validation` and `test` that may not be missing.

    Returns:
        Names at the source, by `train`, `validation` and `test`, as far as there are such splits;
        the same name three times if there is a single file or split. A name that `data.splits`
        gives to one of them is no default of another.

    Raises:
        InputError: A split is missing, two could be meant, or test rows would also be others.
    """
    wishes = {split: name for split, name in (source.splits or {}).items() if name}
    if source.root is None and source.hub is None:
        raise InputError(
            f"task {task} reads rows of your own: give their folder or file, data.root, or "
            "their data set on the hub, data.hub"
        )
    if source.root is not None:
        if source.root.is_file():
            if wishes:
                raise InputError(
                    f"data.root {source.root} is one file; data.splits names files of a folder"
                )
            return dict.fromkeys(NAMES, source.root.name)
        folder = task_folder(source.root, task)
        there = {name for names in NAMES.values() for name in names if split_file(folder, name)}
        there |= {name for name in wishes.values() if split_file(folder, name)}
    else:
        there = set(hub_splits(source.hub or "", source.hub_config))
        if len(there) == 1 and there.issuperset(wishes.values()):
            return dict.fromkeys(NAMES, *there)
    found = {}
    for split in NAMES:
        candidates = _candidates(split, wishes, there)
        if len(candidates) > 1:
            raise InputError(
                f"{source.root or source.hub}: {' and '.join(candidates)} could both be the "
                f"{split} rows; name one with data.splits"
            )
        if candidates:
            found[split] = candidates[0]
        elif split in wishes or split in needed:
            raise InputError(
                _taken(split, wishes, there) or _missing(source, task, wishes.get(split, split))
            )
    _check_test_alone(found)
    return found


def _candidates(split: str, wishes: Mapping[str, str], there: Collection[str]) -> list[str]:
    """The names that a split may have at the source."""
    if split in wishes:
        return [name for name in (wishes[split],) if name in there]
    # validation rows may be train rows: calibration and dev are then carved from them
    others = {n for other, n in wishes.items() if {other, split} != {"train", "validation"}}
    return [name for name in NAMES[split] if name in there and name not in others]


def _taken(split: str, wishes: Mapping[str, str], there: Collection[str]) -> str | None:
    """The message for a split whose default names went to other splits, if that is the case."""
    if split in wishes:
        return None
    return next(
        (
            f"data.splits gives {name} to {other}, and nothing is left for {split}: name its rows "
            "with data.splits, too"
            for other, name in wishes.items()
            if name in there and name in NAMES[split]
        ),
        None,
    )


def _check_test_alone(found: Mapping[str, str]) -> None:
    """Checks that the test rows have no other use, unless all rows are from one split."""
    shared = [split for split, name in found.items() if name == found.get("test")]
    if len(shared) > 1 and len(set(found.values())) > 1:
        raise InputError(
            f"data.splits: {found['test']} is {' and '.join(shared)}; test rows can be nothing "
            "else, so name others"
        )


def read_split(source: DataSource, task: str, name: str) -> Rows:
    """Reads the rows of one of `find_splits`, under the task's names of columns.

    Look-ups of columns are recorded, see `Columns`.

    Raises:
        InputError: The rows cannot be read.
    """
    if source.hub is not None:
        rows = hub_rows(source.hub, source.hub_config, name)
    elif source.root is not None and source.root.is_file():
        rows = read_file(source.root)
    else:
        assert source.root is not None
        folder = task_folder(source.root, task)
        rows = read_file(split_file(folder, name) or folder / f"{name}.jsonl")
    return RenamedRows(rows, source.columns or {})


def _missing(source: DataSource, task: str, split: str) -> str:
    """The message for a split that is not there."""
    if source.root is None:
        names = ", ".join(hub_splits(source.hub or "", source.hub_config))
        return f"{source.hub} has no split {split}; it has {names}: name them with data.splits"
    folder = task_folder(source.root, task)
    if not folder.exists() and split_extension(folder.name):
        return f"no file {folder}"
    if not folder.is_dir():
        return f"data.root {folder} is no folder; it must be the folder with {split}.jsonl"
    message = f"no file {folder / split}.jsonl"
    files = readable_files(folder)
    if len(files) == 1:
        message += f"; with data.root {files[0]} a part of that file becomes the test set"
    elif files:
        message += f" beside {', '.join(file.name for file in files)}; name them with data.splits"
    return message


class RenamedRows:
    """Rows with columns under the names of a task. Look-ups of columns are recorded.

    Args:
        rows: The rows as read.
        columns: Names at the source, by the task's names.

    Raises:
        InputError: No row has one of the columns.
    """

    def __init__(self, rows: Rows, columns: Mapping[str, str | Sequence[str]]):
        self._rows, self._columns, self._asked = rows, columns, set[str]()
        self._flat = list(_flat(columns.values()))
        self._names = {column: name for column, name in columns.items() if isinstance(name, str)}
        for name in self._flat:
            if all(_value(row.columns, name) is MISSING for row in rows):
                raise InputError(
                    f"data.columns: no column {name!r}; the columns of {rows[0].where} are: "
                    f"{rows[0].names()}"
                )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._renamed(self._rows[index])

    def __iter__(self) -> Iterator[Row]:
        return map(self._renamed, self._rows)

    def _renamed(self, row: Row) -> Row:
        moved = {n if n in row.columns else n.split(".")[0] for n in self._flat}
        values = {column: value for column, value in row.columns.items() if column not in moved}
        replaced = set[str]()
        for column, name in self._columns.items():
            if (value := _value(row.columns, name)) is not MISSING:
                if column in row.columns and column not in moved:
                    replaced.add(column)
                values[column] = value
        named = row.class_names
        classes = {column: named[name] for column, name in self._names.items() if name in named}
        return Row(
            Columns(values, self._asked, replaced),
            row.where,
            row.fault,
            class_names={**named, **classes},
            source_names=self._names,
        )


def _value(columns: Mapping[str, Any], name: str | Sequence[str]) -> Any:
    """The value of a column, of a column in a column, or of several columns; or MISSING."""
    if not isinstance(name, str):
        values = [_value(columns, part) for part in name]
        # rows with fewer choices than others leave the last columns empty
        while values and (values[-1] is None or values[-1] is MISSING or values[-1] == ""):
            values.pop()
        return [None if value is MISSING else value for value in values]
    if name in columns:
        return columns[name]
    head, _, rest = name.partition(".")
    nested = columns.get(head)
    if rest and isinstance(nested, Mapping):
        return _value(nested, rest)
    if rest and isinstance(nested, list) and all(isinstance(part, Mapping) for part in nested):
        values = [_value(part, rest) for part in nested]
        return MISSING if MISSING in values else values
    return MISSING


def _flat(names: Any) -> Iterator[str]:
    for name in names:
        yield from [name] if isinstance(name, str) else name

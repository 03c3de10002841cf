"""Rows for tests, made from the examples that tasks declare, and files of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trimlab.data.items import Item
from trimlab.data.readers import read_file
from trimlab.data.rows import Row
from trimlab.data.splits import SETS, RowSets
from trimlab.data.task import Task, load_task


def _numbered(value: Any, number: int) -> Any:
    """The value with a number behind each of its texts, to make rows that differ."""
    if isinstance(value, str):
        return f"{value} {number}" if " " in value else value  # a single word may be a label
    if isinstance(value, list):
        return [_numbered(part, number) for part in value]
    if isinstance(value, dict):
        return {key: _numbered(part, number) for key, part in value.items()}
    return value


def numbered_rows(task: Task, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows that differ, made from the task's own example."""
    assert task.example is not None
    return [
        {name: _numbered(value, number) for name, value in task.example.items()}
        for number in range(start, start + count)
    ]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def example_item(name: str, **columns: Any) -> Item:
    """The item of a task's example, with other values in some columns."""
    task = load_task(name)
    return task.item(Row({**(task.example or {}), **columns}, "rows.jsonl:1"), "authors")


def splits_of(task: Task) -> list[str]:
    """The names of a task's splits, each once."""
    return list(dict.fromkeys(task.splits))


def file_parts(task: Task, split: str) -> list[Task]:
    """The tasks whose rows make up a split, without those that build their own rows."""
    return [part for part in task.parts(split) if part.example is not None]


def file_of(root: Path, task: Task, part: Task, split: str) -> Path:
    """The file of one part of a task."""
    return (root if part is task else root / part.name) / f"{split}.jsonl"


def write_files(root: Path, task: Task, **changes: list[Any]) -> Path:
    """A folder with 40 rows a file, made from the tasks' own examples."""
    start = 0
    for split in splits_of(task):
        for part in file_parts(task, split):
            rows = changes.get(split, numbered_rows(part, 40, start))
            write_rows(file_of(root, task, part, split), rows)
            start += 100
    return root


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [dict(row.columns) for row in read_file(path)]


def sizes_of(sets: RowSets) -> list[int]:
    """The sizes of the four sets."""
    return list(sets.counts().values())


def all_items(sets: RowSets) -> list[Item]:
    """The items of all four sets."""
    return [item for name in SETS for item in getattr(sets, name)]

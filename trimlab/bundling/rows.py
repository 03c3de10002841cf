"""The rows of a task in a bundle, as `data.root` reads them."""

import json
import shutil
from pathlib import Path

from trimlab.data.readers import read_file, readable_files, split_file, task_folder
from trimlab.data.source import DataSource
from trimlab.data.task import Task, load_task
from trimlab.errors import InputError


def copy_rows(name: str, root: Path | None, target: Path) -> str | None:
    """Copies the files of a task's rows, or writes the rows of the hub to such files.

    Args:
        name: Name of the task.
        root: The folder of rows, as `data.root`; without it the rows come from the hub.
        target: The new `data.root`; the rows go to a folder of it.

    Returns:
        A sentence for the user where there was nothing to copy, else None.

    Raises:
        InputError: There is no such task, or its rows are not there.
    """
    task = load_task(name)
    if not task.own_rows and all(part.hub is None for part in task.parts(task.splits[2])):
        return (
            f"{name} makes its rows from a Python package: bring that with --packages, if the "
            "machine lacks it"
        )
    if task.own_rows:
        _copy_own(task, root, target)
        return None
    source = DataSource(root)
    for split, place in task.layout(source).items():
        for part in task.parts(split):
            _copy_split(part, place, source, target / part.name)
    return None


def _copy_own(task: Task, root: Path | None, target: Path) -> None:
    """Copies all files of the user's own rows."""
    if root is None:
        raise InputError(f"{task.name} reads rows of your own: give their folder, --data.root")
    folder = task_folder(root, task.name)
    files = readable_files(folder)
    if not files:
        raise InputError(f"--data.root {folder} is no folder with files of rows")
    (target / task.name).mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, target / task.name / path.name)


def _copy_split(part: Task, split: str, source: DataSource, target: Path) -> None:
    """Copies a split of a published task. A split that is there already is the same one."""
    target.mkdir(parents=True, exist_ok=True)
    if source.root is not None:
        folder = part.folder(source.root)
        path = split_file(folder, split) or folder / f"{split}.jsonl"
        read_file(path)  # refuses what a run could not read
        shutil.copyfile(path, target / path.name)
        return
    rows = part.rows(split, source)
    lines = (json.dumps(dict(row.columns), ensure_ascii=False) + "\n" for row in rows)
    with (target / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(lines)

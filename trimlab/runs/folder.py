"""The folder of a run: its lock, its config, its record and its summary."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import yaml

from trimlab.errors import InputError, one_line
from trimlab.files import (
    check_writable,
    lock_holder,
    read_yaml,
    remove_parts,
    try_lock,
    write_text,
)
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.rows import JsonObject, read_rows
from trimlab.records.run_summary import RunSummary
from trimlab.runs.options import present_names


class RunFolder:
    """The files of a run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.record = path / "record.jsonl"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"

    def make(self) -> None:
        """Makes the folder.

        Raises:
            InputError: It cannot be made or written.
        """
        check_writable(self.path)

    def check_parts(self) -> None:
        """Refuses a folder of an unfinished run whose parts cannot be written, as after a copy.

        Raises:
            InputError: Nothing can be written to the checkpoints or to the models.
        """
        for folder in (self.checkpoints, self.models):
            if folder.exists():
                check_writable(folder)
        if self.record.exists() and not os.access(self.record, os.W_OK):
            raise InputError(f"cannot write to {self.record}; change its permissions")

    @contextmanager
    def claimed(self, config: JsonObject) -> Iterator[None]:
        """Holds the folder's lock, for a run with this config.

        Args:
            config: The config, written to `config.yaml` unless a run has begun in the folder.

        Raises:
            InputError: The folder is in use, or belongs to something else or to another config.
        """
        used = any(not path.name.startswith(".") for path in self.path.iterdir())
        if used and not self.config.exists():
            raise InputError(f"{self.path} is not empty and holds no run; choose another")
        begun = any(path.exists() for path in (self.summary, self.record, self.checkpoints))
        with self._lock():
            remove_parts(self.path)
            existing = self._read_config() if self.config.exists() else None
            if existing is not None and begun:
                self._check_config(existing, config)
            else:  # a start that was refused has left a config, too
                write_text(self.config, yaml.safe_dump(config, sort_keys=False))
            yield

    def _lock(self) -> IO[bytes]:
        path = self.path / ".lock"
        try:
            lock = try_lock(path)
        except OSError as error:
            raise InputError(f"cannot lock {path}: {error.strerror}") from error
        if lock is None:
            raise InputError(
                f"{lock_holder(path)} is running in {self.path}; wait for it or choose another "
                "--run.dir"
            )
        return lock

    def read_summary(self) -> RunSummary | None:
        """The summary so far, with usable paths, or None where no phase has ended yet.

        Raises:
            InputError: The file is damaged.
        """
        if not self.summary.exists():
            return None
        try:
            summary = RunSummary.from_row(json.loads(self.summary.read_bytes()))
        except Exception as error:  # whatever the file holds in place of a summary
            raise InputError(
                f"{self.summary} is damaged ({one_line(error)}); remove it, and the run measures "
                "again what it held"
            ) from error
        return summary.with_folders(self._found)

    def write_summary(self, summary: RunSummary) -> None:
        """Writes the summary, in whole, with paths relative to the run folder."""
        row = summary.with_folders(self._relative).to_row()
        write_text(self.summary, json.dumps(row, indent=2) + "\n")

    def _relative(self, folder: str) -> str:
        """The path of a model, from the run folder."""
        path = Path(folder)
        return str(Path(self.models.name, path.name)) if path.parent == self.models else folder

    def _found(self, folder: str) -> str:
        """The path of a model, from here: the run folder may be a copy.

        Earlier versions wrote absolute paths, or paths from the folder that they were started in.
        """
        here = self.models / Path(folder).name
        if Path(folder).parent == Path(self.models.name):
            return str(here)
        return str(here) if here.exists() or not Path(folder).exists() else folder

    def points(self) -> list[OperatingPoint]:
        """The operating points so far.

        Raises:
            InputError: A row is no operating point.
        """
        points = []
        for number, row in enumerate(read_rows(self.record), start=1):
            try:
                points.append(OperatingPoint.from_row(row))
            except InputError as error:
                raise InputError(f"{self.record}, row {number}: {error}") from error
        return points

    def _read_config(self) -> JsonObject:
        """The config of the folder; refuses a file of this name that is none."""
        try:
            existing = read_yaml(self.config)
        except InputError:
            existing = None
        if existing is None:
            raise InputError(f"{self.config} is not the config of a run; choose another --run.dir")
        return existing

    def _check_config(self, existing: JsonObject, config: JsonObject) -> None:
        """Refuses another config than the folder's, and names the first difference."""
        new = _flat(json.loads(json.dumps(config, default=str)))
        old = _flat(present_names(existing))
        for key in sorted(new.keys() | old.keys()):
            if new.get(key) != old.get(key):
                raise InputError(
                    f"{self.path} holds a run with another config ({key}: {old.get(key)} there, "
                    f"{new.get(key)} here); choose another --run.dir"
                )


def _flat(config: JsonObject, prefix: str = "") -> JsonObject:
    flat: JsonObject = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat

"""Rows of a run record: JSON lines, appended so that a kill leaves no half of one that counts."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from trimlab.files import write_text

JsonObject = dict[str, Any]


# fields that measure this execution and not the algorithm: a resumed run has others
TIMING_FIELDS = frozenset(
    {"seconds", "scan_seconds", "fit_seconds", "phase_seconds", "peak_rss_bytes", "latency_ms"}
)


def read_rows(path: Path) -> list[JsonObject]:
    """Rows of a record, without a line that a killed process left half-written."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # no JSON, or no text
            continue
    return rows


def append_row(path: Path, row: JsonObject) -> None:
    """Appends one row and makes sure that it is on disk."""
    append_rows(path, [row])


def append_rows(path: Path, rows: Iterable[JsonObject]) -> None:
    """Appends rows at once and makes sure that they are on disk."""
    with path.open("a+b") as file:
        if file.tell() and not _ends_with_newline(file):
            file.write(b"\n")  # a killed process was writing here: its half row stays a line apart
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def rewind(path: Path, rows: Iterable[JsonObject]) -> None:
    """Takes a record back to the rows of the checkpoint that a run resumes from."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

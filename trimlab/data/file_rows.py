"""Rows of a file that stay there: a row is read and parsed each time that it is asked for."""

import os
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from trimlab.data.rows import Row
from trimlab.errors import InputError

BLOCK = 2**20  # bytes that are read at once where all rows are asked for


class FileRows:
    """The rows of a file. In memory are two numbers for each: its first byte and its number.

    Args:
        file: The file or an unpacked copy, seekable. It is closed with this object.
        path: Path of the file, for messages.
        places: First byte and number of every row, found by reading `file`.
        parse: Makes a row of its bytes and its place. The bytes end where the next row begins.
        unit: What the numbers count, behind the path in the place of a row.

    Raises:
        InputError: The file has changed.
    """

    def __init__(
        self,
        file: IO[bytes],
        path: Path,
        places: Iterable[tuple[int, int]],
        parse: Callable[[bytes, str], Row],
        unit: str = ":",
    ):
        weakref.finalize(self, file.close)
        self._file, self._path, self._parse, self._unit = file, path, parse, unit
        self._state = self._found_state()
        self._starts, self._numbers = array("Q"), array("Q")
        for start, number in places:
            self._starts.append(start)
            self._numbers.append(number)
        self._starts.append(file.seek(0, os.SEEK_END))
        self._check_unchanged()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Row:
        index = range(len(self))[index]
        return self._parse(self._read(index, index + 1), self._where(index))

    def __iter__(self) -> Iterator[Row]:
        starts, first = self._starts, 0
        while first < len(self):
            begin = starts[first]
            last = max(first + 1, bisect_right(starts, begin + BLOCK) - 1)
            block = self._read(first, last)
            for i in range(first, last):
                row = block[starts[i] - begin : starts[i + 1] - begin]
                yield self._parse(row, self._where(i))
            first = last

    def _where(self, index: int) -> str:
        return f"{self._path}{self._unit}{self._numbers[index]}"

    def _read(self, first: int, last: int) -> bytes:
        """The bytes of the rows from `first` to before `last`."""
        try:
            self._file.seek(self._starts[first])
            found = self._file.read(self._starts[last] - self._starts[first])
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror or error}") from error
        self._check_unchanged()
        return found

    def _found_state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._found_state() != self._state:
            raise InputError(
                f"{self._path} has changed while it was read; start again when nothing writes to it"
            )

"""Reading the rows of a file.

A `.jsonl`, `.json`, `.csv` or `.tsv` file is read by the standard library and not by `datasets`:
a fault is then known by its line, a missing column differs from an empty one, and values stay as
they are written (pandas reads the text "None" as missing, and 007 as 7). All values of a `.csv`
file are texts. `.parquet` files are read by `datasets`. Text formats may be compressed, in every
way that fsspec knows (`.gz`, `.bz2`, `.xz`; `.zst` with the package zstandard).
"""

import csv
import io
import json
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fsspec.compression import compr
from fsspec.utils import compressions

from trimlab.data.dataset_rows import read_parquet
from trimlab.data.file_rows import FileRows
from trimlab.data.items import is_unicode
from trimlab.data.rows import Row, Rows, short
from trimlab.errors import InputError

LONGEST_FIELD = 2**31 - 1  # characters; the standard library refuses fields of 131,073
# a compressed file that is cut or is none
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # at the beginning of files that some editors write


def split_extension(name: str) -> tuple[str, str] | None:
    """The stem of a file name and its extension without that of a compression.

    Returns:
        E.g. `("train", "jsonl")` for `train.jsonl.gz`; None for files of other kinds.
    """
    stem, _, extension = name.rpartition(".")
    if extension.lower() in compressions:
        stem, _, extension = stem.rpartition(".")
    extension = extension.lower()
    return (stem, extension) if stem and extension in READERS else None


def readable_files(folder: Path) -> list[Path]:
    """The files in a folder that hold rows, by their extension."""
    return sorted(path for path in folder.glob("*") if split_extension(path.name))


def task_folder(root: Path, task: str) -> Path:
    """The folder with a task's files: `<root>/<task>` if it exists, else the root."""
    folder = root / task
    return folder if folder.is_dir() else root


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split, `<split>.<extension>`; None if there is none.

    Raises:
        InputError: There are several.
    """
    found = [
        path for path in readable_files(folder) if (split_extension(path.name) or ("",))[0] == split
    ]
    if len(found) > 1:
        names = " and ".join(str(path) for path in found)
        raise InputError(f"{names} could both be the {split} rows; remove one of them")
    return found[0] if found else None


def read_file(path: Path) -> Rows:
    """Reads the rows of a file, by its extension.

    They stay in the file, or in a copy without a name, but for those of a `.json` file with a list:
    that is parsed as a whole once. A row that cannot be read has a `fault` and no columns.

    Raises:
        InputError: The file is missing, empty, damaged or of a kind that cannot be read.
    """
    found = split_extension(path.name)
    if found is None:
        raise InputError(f"cannot read {path}: rows are read from {FORMATS}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a .{found[1]} file should be")
    if not path.exists():
        raise InputError(f"no file {path}")
    try:
        rows = READERS[found[1]](path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not len(rows):
        raise InputError(f"{path} has no rows")
    return rows


def read_jsonl(path: Path) -> Rows:
    """The rows of a file with one JSON object a line."""
    file = _open(path)
    return FileRows(file, path, _json_lines(file), _json_row)


def read_json(path: Path) -> Rows:
    """The rows of a list of JSON objects, alone or as the only list of an object.

    A file of JSON lines with this extension is read, too.
    """
    with _open(path) as file:
        content = file.read().removeprefix(BYTE_ORDER_MARK)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{"):  # one object a line
            return read_jsonl(path)
        raise InputError(f"{path}: {_problem(error)}") from None
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        if len(lists) != 1 and len(content.splitlines()) == 1:
            lists = [[found]]  # a single JSON line
        if len(lists) != 1:
            raise InputError(f"{path}: an object with {len(lists)} lists; rows are one list")
        found = lists[0]
    if not isinstance(found, list):
        raise InputError(f"{path}: rows must be a list of objects, not {short(found)}")
    lines = tempfile.TemporaryFile()  # noqa: SIM115  # the rows close it
    try:
        lines.writelines(json.dumps(columns).encode() + b"\n" for columns in found)
    except RecursionError as error:
        raise InputError(f"{path}: {_problem(error)}") from None
    lines.seek(0)
    return FileRows(lines, path, _json_lines(lines), _json_row, unit=" row ")


def read_csv(path: Path, delimiter: str = ",") -> Rows:
    """The rows of a file with the names of the columns in its first line; all values are texts."""
    csv.field_size_limit(LONGEST_FIELD)
    file = _open(path)
    records = _csv_records(file, path, delimiter)
    header = _csv_header(next(records, (0, 0, []))[2], path)

    def parse(record: bytes, where: str) -> Row:
        text = io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")
        return _csv_row(header, next(csv.reader(text, delimiter=delimiter)), where)

    places = ((start, number) for start, number, values in records if values)
    return FileRows(file, path, places, parse)


READERS: dict[str, Callable[[Path], Rows]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": lambda path: read_csv(path, "\t"),
    "parquet": read_parquet,
}
FORMATS = (
    f"{', '.join(f'.{extension}' for extension in READERS)} files, "
    f"also compressed as {', '.join(f'.{extension}' for extension in compressions)}"
)


def _open(path: Path) -> IO[bytes]:
    """Opens a file; of a compressed one, or of a pipe, an unpacked copy that has no name."""
    compression: Any = compressions.get(path.suffix.lower().removeprefix("."))
    file = path.open("rb")
    if not compression and file.seekable():
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # the rows close it
    with file:
        try:
            shutil.copyfileobj(compr[compression](file, mode="rb") if compression else file, copy)
        except (IndexError, NotImplementedError) as error:  # an empty .zip, or a method of others
            raise zipfile.BadZipFile(str(error)) from error
    copy.seek(0)
    return copy


def _json_lines(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """First byte and number of the lines that are not blank."""
    start = 0
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if text and not text.isspace():
            yield start + len(line) - len(text), number
        start += len(line)


def _json_row(lines: bytes, where: str) -> Row:
    """The row of the first of some lines; the others are blank."""
    line = lines[: lines.find(b"\n") + 1 or None]
    try:  # bytes: a line that is not UTF-8 can be named
        columns = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return Row({}, where, fault=_problem(error))
    if isinstance(columns, dict):
        return Row(columns, where)
    return Row({}, where, fault=f"a row must be an object, not {short(columns)}")


def _problem(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8; save the file as UTF-8"
    return f"not JSON: {error}"


def _csv_records(
    file: IO[bytes], path: Path, delimiter: str
) -> Iterator[tuple[int, int, list[str]]]:
    """First byte, first line and values of all records, with the header and blank lines."""
    end = 3 if file.read(3) == BYTE_ORDER_MARK else file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", errors="surrogateescape")

    def lines() -> Iterator[str]:
        nonlocal end
        for line in text:
            end += len(line.encode("utf-8", "surrogateescape"))
            yield line

    records = csv.reader(lines(), delimiter=delimiter)
    start, number = end, 1
    try:
        for values in records:
            yield start, number, values
            start, number = end, records.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{records.line_num}: {error}") from None
    finally:
        text.detach()  # it would close the file


def _csv_header(header: list[str], path: Path) -> list[str]:
    """The names of the columns; spreadsheets write empty ones behind the last."""
    if not _is_utf8(header):
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8")
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise InputError(f"{path}:1: two columns have the same name: {', '.join(named)}")
    return header


def _csv_row(header: list[str], values: list[str], where: str) -> Row:
    if len(values) != len(header):
        return Row({}, where, fault=f"{len(values)} values for {len(header)} columns")
    if not _is_utf8(values):
        return Row({}, where, fault="not UTF-8; save the file as UTF-8")
    pairs = zip(header, values, strict=True)
    return Row({name: value for name, value in pairs if name or value}, where)


def _is_utf8(texts: list[str]) -> bool:
    """Whether `errors="surrogateescape"` had nothing to let through, and no text is UTF-16."""
    joined = "".join(texts)
    return is_unicode(joined) and "\0" not in joined

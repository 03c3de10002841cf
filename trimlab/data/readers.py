"""Reading the rows of a file or of a data set of the Hugging Face hub.

A `.jsonl`, `.json`, `.csv` or `.tsv` file is read by the standard library and not by `datasets`:
a fault is then known by its line, a missing column differs from an empty one, and values stay as
they are written (pandas reads the text "None" as missing, and 007 as 7). All values of a `.csv`
file are texts. `.parquet` files and the hub are read by `datasets`. Text formats may be compressed,
in every way that fsspec knows (`.gz`, `.bz2`, `.xz`; `.zst` with the package zstandard).
"""

import csv
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fsspec.compression import compr
from fsspec.utils import compressions

from trimlab.data.items import is_unicode
from trimlab.data.rows import Row, short
from trimlab.errors import InputError

LONGEST_FIELD = 2**31 - 1  # characters; the standard library refuses fields of 131,073
HUB_SECONDS = 10  # timeout of the first request to the hub
HUB_PARQUET = "refs/convert/parquet"  # revision with the hub's own conversion of a data set
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


def read_file(path: Path) -> list[Row]:
    """Reads the rows of a file, by its extension.

    A row that cannot be read has a `fault` and no columns.

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
        rows = list(READERS[found[1]](path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def read_jsonl(path: Path) -> Iterator[Row]:
    """The rows of a file with one JSON object a line."""
    with _open(path) as lines:  # bytes: a line that is not UTF-8 can be named
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if line.strip():
                yield _json_row(line, f"{path}:{number}")


def read_json(path: Path) -> Iterator[Row]:
    """The rows of a list of JSON objects, alone or as the only list of an object.

    A file of JSON lines with this extension is read, too.
    """
    with _open(path) as file:
        content = file.read().removeprefix(BYTE_ORDER_MARK)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{"):  # one object a line
            yield from read_jsonl(path)
            return
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
    for number, columns in enumerate(found, start=1):
        yield _row(columns, f"{path} row {number}")


def read_csv(path: Path, delimiter: str = ",") -> Iterator[Row]:
    """The rows of a file with the names of the columns in its first line; all values are texts."""
    with _open(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="", errors="surrogateescape")
        csv.field_size_limit(LONGEST_FIELD)
        lines = csv.reader(text, delimiter=delimiter)
        try:
            header = _csv_header(next(lines, []), path)
            begin = lines.line_num + 1
            for values in lines:
                where, begin = f"{path}:{begin}", lines.line_num + 1
                if values:
                    yield _csv_row(header, values, where)
        except csv.Error as error:
            raise InputError(f"{path}:{lines.line_num}: {error}") from None


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file; the names of its classes are kept."""
    from datasets import load_dataset

    try:
        # streaming: without a copy of the file in the cache of `datasets`
        rows: Any = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        yield from _dataset_rows(rows, rows.features, str(path), start=1)
    except Exception as error:  # the libraries below raise errors of many types
        raise InputError(f"cannot read {path}: {_first_line(error)}") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
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


def hub_rows(data_set: str, config: str | None, split: str) -> list[Row]:
    """Reads a split of a data set from the Hugging Face hub, or from its local cache.

    Args:
        data_set: Name on the hub.
        config: Configuration of the data set, if it has several.
        split: Name of the split.

    Raises:
        InputError: The hub cannot be reached, or has no such rows.
    """
    rows = _load(data_set, config, split=split)
    about = " ".join(filter(None, (data_set, config, split)))
    return list(_dataset_rows(rows.to_list(), rows.features, about))


def hub_splits(data_set: str, config: str | None) -> list[str]:
    """The names of the splits of a data set, which is fetched, see `hub_rows`."""
    return list(_load(data_set, config))


def _load(data_set: str, config: str | None, **split: Any) -> Any:
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        # `load_dataset` retries a dead network for half a minute; this request fails soon
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(data_set, timeout=HUB_SECONDS)
        try:
            return load_dataset(data_set, config, **split)
        except RuntimeError as error:
            if "scripts" not in str(error):
                raise
            # an old data set with a loading script, which is not run
            return load_dataset(data_set, config, **split, revision=HUB_PARQUET)
    except Exception as error:  # the libraries below raise errors of many types
        if "Config name is missing" in str(error):  # the second line lists them
            names = str(error).splitlines()[1:2]
            raise InputError(f"{data_set} needs data.hub_config. {' '.join(names)}") from error
        raise InputError(
            f"cannot get {data_set} from the Hugging Face hub ({_first_line(error)}); give local "
            ".jsonl files with data.root, or set HF_HUB_OFFLINE=1 if the data set is in the local "
            "cache"
        ) from error


def _dataset_rows(
    rows: Iterable[Any], features: Mapping[str, Any] | None, about: str, start: int = 0
) -> Iterator[Row]:
    """The rows of a data set of `datasets`, with the names of its classes."""
    names = {
        column: tuple(feature.names)
        for column, feature in (features or {}).items()
        if type(feature).__name__ == "ClassLabel"
    }
    for number, columns in enumerate(rows, start):
        yield Row(columns, f"{about} row {number}", class_names=names)


def _open(path: Path) -> IO[bytes]:
    """Opens a file that may be compressed."""
    compression: Any = compressions.get(path.suffix.lower().removeprefix("."))
    file = path.open("rb")
    return compr[compression](file, mode="rb") if compression else file


def _json_row(line: bytes, where: str) -> Row:
    try:
        return _row(json.loads(line.decode("utf-8")), where)
    except (ValueError, RecursionError) as error:
        return Row({}, where, fault=_problem(error))


def _problem(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8; save the file as UTF-8"
    return f"not JSON: {error}"


def _row(columns: Any, where: str) -> Row:
    if isinstance(columns, dict):
        return Row(columns, where)
    return Row({}, where, fault=f"a row must be an object, not {short(columns)}")


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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

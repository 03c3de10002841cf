"""Reading rows from a `.jsonl` file or from the Hugging Face hub."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimlab.errors import InputError

HUB_SECONDS = 10  # timeout of the first request to the hub
HUB_PARQUET = "refs/convert/parquet"  # revision with the hub's own conversion of a data set


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read.

    The methods return the value of a column. They raise an `InputError` with the row's place and
    the column if it is missing or has another type.

    Attributes:
        columns: Values by column.
        where: File and line, or data set and number, of the row.
    """

    columns: Mapping[str, Any]
    where: str

    def text(self, column: str) -> str:
        """The text in a column."""
        return self._checked(column, lambda value: isinstance(value, str), "text")

    def texts(self, column: str) -> list[str]:
        """The list of texts in a column."""
        return self._checked(
            column,
            lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
            "a list of texts",
        )

    def index(self, column: str) -> int:
        """The whole number in a column."""
        # JSON's true is 1 in Python: an answer of `true` is a mistake, not choice 1
        return self._checked(column, lambda value: type(value) is int, "a whole number")

    def label(self, column: str, labels: Sequence[str]) -> int:
        """The index in `labels` of the text in a column."""
        kind = f"one of {', '.join(labels)}"
        labels = list(labels)  # `labels` may be a string, and "" and "AB" are in "ABCD"
        return labels.index(self._checked(column, lambda value: value in labels, kind))

    def _checked(self, column: str, fits: Callable[[Any], bool], kind: str) -> Any:
        if column not in self.columns:
            found = ", ".join(self.columns) or "none"
            raise InputError(f"{self.where}: no column {column!r}; its columns are: {found}")
        value = self.columns[column]
        if not fits(value):
            raise InputError(f"{self.where}: {column!r} must be {kind}, not {_short(value)}")
        return value


def read_jsonl(path: Path) -> list[Row]:
    """Reads the rows of a `.jsonl` file.

    Raises:
        InputError: The file is missing, empty, not UTF-8 or not one JSON object a line.
    """
    rows, where = [], str(path)
    try:
        with path.open("rb") as lines:  # bytes: a line that is not UTF-8 can be named
            for number, line in enumerate(lines, start=1):
                where = f"{path}:{number}"
                # some editors begin a file with a byte order mark
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                columns = json.loads(text)
                if not isinstance(columns, dict):
                    raise InputError(f"{where}: a row must be an object, not {_short(columns)}")
                rows.append(Row(columns, where))
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, where a .jsonl file should be") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def hub_rows(data_set: str, config: str | None, split: str) -> list[Row]:
    """Reads a split of a data set from the Hugging Face hub, or from its local cache.

    Args:
        data_set: Name on the hub.
        config: Configuration of the data set, if it has several.
        split: Name of the split.

    Raises:
        InputError: The hub cannot be reached, or has no such rows.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        # `load_dataset` retries a dead network for half a minute; this request fails soon
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(data_set, timeout=HUB_SECONDS)
        try:
            rows: Any = load_dataset(data_set, config, split=split)
        except RuntimeError as error:
            if "scripts" not in str(error):
                raise
            # an old data set with a loading script, which is not run
            rows = load_dataset(data_set, config, split=split, revision=HUB_PARQUET)
    except Exception as error:  # the libraries below raise errors of many types
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"cannot get {data_set} from the Hugging Face hub ({reason}); give local .jsonl files "
            "with data.root, or set HF_HUB_OFFLINE=1 if the data set is in the local cache"
        ) from error
    where = " ".join(filter(None, (data_set, config, split)))
    return [Row(row, f"{where} row {i}") for i, row in enumerate(rows.to_list())]


def _short(value: object) -> str:
    """A value as JSON, cut for an error message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."

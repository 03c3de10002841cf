"""Rows that the library `datasets` reads: those of Parquet files and of the Hugging Face hub.

They stay in a memory-mapped Arrow file.
"""

import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from trimlab.data.rows import Row, Rows
from trimlab.errors import InputError

BATCH = 500  # rows that are converted at once where all are asked for
HUB_SECONDS = 10  # timeout of the first request to the hub
HUB_PARQUET = "refs/convert/parquet"  # revision with the hub's own conversion of a data set


class DatasetRows:
    """The rows of a data set, with the names of its classes.

    Args:
        rows: A `datasets.Dataset`.
        features: The types of its columns.
        about: Name of the data set, for messages.
        start: Number of the first row, for messages.
    """

    def __init__(self, rows: Any, features: Mapping[str, Any] | None, about: str, start: int = 0):
        # Arrow: values as they are stored; the other formats also open images and sounds
        self._rows, self._about, self._start = rows.with_format("arrow"), about, start
        self._class_names = {
            column: tuple(feature.names)
            for column, feature in (features or {}).items()
            if type(feature).__name__ == "ClassLabel"
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        index = range(len(self))[index]
        return self._row(self._values(self._rows[index])[0], index)

    def __iter__(self) -> Iterator[Row]:
        batches = self._rows.iter(batch_size=BATCH)
        every = (columns for batch in batches for columns in self._values(batch))
        return (self._row(columns, index) for index, columns in enumerate(every))

    def _values(self, table: Any) -> list[dict[str, Any]]:
        try:
            return table.to_pylist()
        except UnicodeDecodeError as error:
            raise InputError(f"cannot read {self._about}: a text in it is not UTF-8") from error

    def _row(self, columns: dict[str, Any], index: int) -> Row:
        where = f"{self._about} row {self._start + index}"
        return Row(columns, where, class_names=self._class_names)


def read_parquet(path: Path) -> Rows:
    """The rows of a Parquet file; the names of its classes are kept.

    Raises:
        InputError: The file cannot be read.
    """
    import pyarrow as pa
    from datasets import Dataset, load_dataset

    try:
        # streaming: without a copy of the file in the cache of `datasets`
        rows: Any = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        tables = rows.with_format("arrow").iter(batch_size=BATCH)
        if (first := next(tables, None)) is None:
            return []
        with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
            with pa.ipc.new_stream(file, first.schema) as copy:
                for table in chain([first], tables):
                    copy.write_table(table)
            file.flush()
            unpacked = Dataset.from_file(file.name)  # memory-mapped: it outlives its name
        return DatasetRows(unpacked, rows.features, str(path), start=1)
    except Exception as error:  # the libraries below raise errors of many types
        raise InputError(f"cannot read {path}: {_first_line(error)}") from error


def hub_rows(data_set: str, config: str | None, split: str) -> Rows:
    """A split of a data set from the Hugging Face hub, or from its local cache.

    Args:
        data_set: Name on the hub.
        config: Configuration of the data set, if it has several.
        split: Name of the split.

    Raises:
        InputError: The hub cannot be reached, or has no such rows.
    """
    rows = _load(data_set, config, split=split)
    about = " ".join(filter(None, (data_set, config, split)))
    return DatasetRows(rows, rows.features, about)


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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

"""Where the rows of a task come from, and how they are to be understood."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from trimlab.errors import InputError
from trimlab.records.rows import JsonObject

Answers = Literal["auto", "index", "one_based", "letter", "text"]


@dataclass(frozen=True)
class DataSource:
    """Where rows come from, and how they are to be understood.

    Args:
        root: Folder with a file for each split, `train.jsonl` and so on (`.jsonl`, `.json`,
            `.csv`, `.tsv` or `.parquet`, also compressed), in the hub's schema; or, for rows of
            your own, one file, of which a part becomes the test set. Without it, rows come from
            the Hugging Face hub (embedded tasks need neither).
        hub: Rows of your own on the Hugging Face hub: `owner/name` of their data set.
        hub_config: Configuration of that data set, if it has several.
        splits: Splits of your own rows under other names, e.g. `{"test": "validation"}`.
            Without a validation split (another one than test), calibration and dev are carved
            from train.
        columns: Columns of your own rows under other names, e.g. `{"question": "q"}`. A dot
            leads into a nested column (`choices.text`), a list makes one column of several.
        answers: How your own multiple-choice rows state the answer: `index` (the first choice
            is 0), `one_based` (the first is 1), `letter`, `text` (that of the choice), or
            `auto`, which decides by all rows.
        labels: Names of the classes of task `classification`, in the order of their numbers if
            rows have numbers; by default the labels of the train rows.
        test_share: Share of the rows of a single file that becomes the test set. The prompt of a
            row decides, and not the seed.
        bad_rows: A row that cannot be used (not readable, without an answer, equal to another
            row, ...) is an `error`, or is left out and counted: `skip`.
    """

    root: Path | None = None
    hub: str | None = None
    hub_config: str | None = None
    splits: dict[str, str] | None = None
    columns: dict[str, str | list[str]] | None = None
    answers: Answers = "auto"
    labels: list[str] | None = None
    test_share: float = 0.1
    bad_rows: Literal["error", "skip"] = "error"

    def __post_init__(self):
        """Expands `~`, and checks the options.

        Raises:
            InputError: Two options exclude each other, or a value cannot work.
        """
        if self.root is not None:
            object.__setattr__(self, "root", Path(self.root).expanduser())
        if self.root is not None and self.hub is not None:
            raise InputError("data.root and data.hub are two sources of rows; give one of them")
        if self.hub_config is not None and self.hub is None:
            raise InputError("data.hub_config needs data.hub")
        if not 0 < self.test_share < 1:
            raise InputError(f"data.test_share must be between 0 and 1, not {self.test_share}")
        for split in self.splits or {}:
            if split not in ("train", "validation", "test"):
                raise InputError(
                    f"data.splits names train, validation and test; there is no {split!r}"
                )

    @classmethod
    def of(cls, source: "DataSource | Path | None") -> "DataSource":
        """A source as it is, or that of a root."""
        return source if isinstance(source, DataSource) else cls(source)

    def options(self) -> JsonObject:
        """The options that differ from their defaults, without the root."""
        return {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if option.name != "root" and getattr(self, option.name) != option.default
        }

    def check_published(self, task: str) -> None:
        """Checks that no option is for rows of the user's own.

        Raises:
            InputError: There is one; `task` is a published benchmark.
        """
        for name in self.options():
            if name != "bad_rows":
                raise InputError(
                    f"data.{name} is for rows of your own (task jsonl, classification, ...), and "
                    f"{task} has a fixed form"
                )

    def for_another_task(self) -> "DataSource":
        """The source of another task's rows: the same folder, if it is one."""
        shared = self.root is not None and not self.root.is_file()
        return DataSource(self.root if shared else None, bad_rows=self.bad_rows)


def source_options(options: Any) -> dict[str, Any]:
    """The arguments of `DataSource` among the options `data.*` of a command line."""
    return {option.name: getattr(options, option.name) for option in fields(DataSource)}

"""Reading rows: columns, files, folders and the hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import rows_of, sizes_of, write_files, write_rows
from trimlab.data.readers import read_file
from trimlab.data.rows import Row
from trimlab.data.splits import read_row_sets
from trimlab.data.task import load_task
from trimlab.errors import InputError


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 3),
        ("text", None),
        ("texts", "a"),
        ("texts", ["a", 1]),
        ("index", True),
        ("index", 1.0),
        ("index", "1"),
        ("index", None),
    ],
)
def test_a_column_of_the_wrong_type_is_named(method: str, value: Any):
    row = Row({"answer": value}, "rows.jsonl:7")
    with pytest.raises(InputError, match=r"^rows.jsonl:7: 'answer' must be .*, not "):
        getattr(row, method)("answer")


def test_a_missing_column_is_named_with_those_found():
    with pytest.raises(InputError, match=r"^x:1: no column 'goal'; its columns are: sol1, label$"):
        Row({"sol1": "", "label": 0}, "x:1").text("goal")


# ---- files --------------------------------------------------------------------------------------


def test_blank_lines_and_a_byte_order_mark_are_read_over(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\xc3\xa9\xe2\x80\xa8"}\r\n\n  \n{"text": "b"}')
    rows = read_file(path)
    assert [(row.text("text"), row.where) for row in rows] == [
        ("é\u2028", f"{path}:1"),
        ("b", f"{path}:4"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.jsonl has no rows"),
        (b"\n \n", "rows.jsonl has no rows"),
        (b'{"a": 1}\n{"a": 1', r"rows.jsonl:2: not JSON: "),
        (b'{"a": 1}\nhello', r"rows.jsonl:2: not JSON: "),
        (b"[" * 100_000, r"rows.jsonl:1: not JSON: "),
        (b'{"a": 1}\n["a"]', r"rows.jsonl:2: a row must be an object, not \[\"a\"\]"),
        (b'{"a": 1}\n{"a": "\xe9"}', r"rows.jsonl:2: not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        [row.value("a") for row in read_file(path)]
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"^no file .*train.jsonl$"):
        read_file(tmp_path / "train.jsonl")
    (folder := tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=r"is a folder, where a .jsonl file should be$"):
        read_file(folder)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "train.jsonl").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"^cannot read .*: Permission denied$"):
        read_file(tmp_path / "train.jsonl")


def test_the_root_must_be_a_folder(tmp_path: Path):
    task = load_task("jsonl")
    with pytest.raises(InputError, match="is no folder; it must be the folder with"):
        read_row_sets(task, tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file; it must be the folder with"):
        read_row_sets(load_task("sciq"), write_rows(tmp_path / "train.jsonl", [{}]))
    with pytest.raises(
        InputError, match=r"^no file .*test.jsonl; with data.root .*train.jsonl a p"
    ):
        read_row_sets(task, tmp_path)
    with pytest.raises(InputError, match=r"give their folder or file, data.root"):
        read_row_sets(task, None)


def test_a_root_may_hold_several_tasks(tmp_path: Path):
    task = load_task("sciq")
    nested = read_row_sets(task, write_files(tmp_path / "many" / "sciq", task).parent, None, 5, 5)
    assert nested == read_row_sets(task, write_files(tmp_path / "one", task), None, 5, 5)


# ---- the hub ------------------------------------------------------------------------------------


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("Name or service not known\nretrying")


def test_rows_come_from_the_hub(tmp_path: Path, hub: Callable[..., None]):
    from datasets import Dataset

    task = load_task("piqa")
    root = write_files(tmp_path, task)
    hub(
        lambda *_, **__: None,
        lambda name, config, split: Dataset.from_list(rows_of(root / f"{split}.jsonl")),
    )
    assert read_row_sets(task, None, None, 5, 5) == read_row_sets(task, root, None, 5, 5)


def test_an_unreachable_hub_names_the_way_out(hub: Callable[..., None]):
    hub(_unreachable, _unreachable)
    with pytest.raises(InputError, match=r"allenai/sciq .*service not known.* data.root") as caught:
        read_row_sets(load_task("sciq"), None)
    assert "\n" not in str(caught.value)


def test_the_cache_is_read_offline(
    tmp_path: Path, hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    from datasets import Dataset

    task = load_task("sciq")
    root = write_files(tmp_path, task)
    hub(
        _unreachable,
        lambda name, config, split: Dataset.from_list(rows_of(root / f"{split}.jsonl")),
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert sizes_of(read_row_sets(task, None, None, 5, 5)) == [40, 5, 5, 40]


def test_a_data_set_with_code_of_its_own_is_read_as_the_hub_converted_it(
    tmp_path: Path, hub: Callable[..., None]
):
    from datasets import Dataset

    task = load_task("casehold")
    root = write_files(tmp_path, task)
    asked = set()

    def load_dataset(name: str, config: str, split: str, revision: str | None = None) -> Dataset:
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found lex_glue.py")
        asked.add((name, config, revision))
        return Dataset.from_list(rows_of(root / f"{split}.jsonl"))

    hub(lambda *_, **__: None, load_dataset)
    assert read_row_sets(task, None, None, 5, 5) == read_row_sets(task, root, None, 5, 5)
    assert asked == {("coastalcph/lex_glue", "case_hold", "refs/convert/parquet")}

"""Files of rows: formats, compressions, one file or several, and rows of one's own on the hub."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import numbered_rows, sizes_of, write_files, write_rows
from trimlab.data.items import fold
from trimlab.data.readers import read_file
from trimlab.data.source import DataSource
from trimlab.data.splits import read_row_sets, read_test_items
from trimlab.data.task import load_task
from trimlab.errors import InputError

ROWS = [
    {"question": "Which, of two?", "choices": ["None", "a\nb"], "answer": 1},
    {"question": "007", "choices": ["NA", "CO"], "answer": 0},
]


def _write(path: Path, rows: list[Any]) -> Path:
    """Writes rows in the format of the path's extension, or bytes for a compressed one."""
    kind = path.suffix
    if kind in (".gz", ".bz2", ".xz"):
        plain = _write(path.with_suffix(""), rows)
        opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[kind]
        with opened(path, "wb") as file:
            file.write(plain.read_bytes())
        plain.unlink()
    elif kind == ".jsonl":
        write_rows(path, rows)
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    elif kind == ".parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            lists = [
                {k: json.dumps(v) if k == "choices" else v for k, v in r.items()} for r in rows
            ]
            writer.writerows(lists)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"]
    + ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.json.gz", "a.csv.gz"],
)
def test_every_format_gives_the_same_items(name: str, tmp_path: Path):
    # as text, "None", "NA" and "007" are no missing values and no numbers
    task = load_task("jsonl")
    rows = read_file(_write(tmp_path / name, ROWS))
    fitted = task.survey({"train": rows}, DataSource())
    items = [fitted.item(row, "authors") for row in rows]
    assert [item.context for item in items] == [
        "Question: Which, of two?\nAnswer:",
        "Question: 007\nAnswer:",
    ]
    assert [item.choices for item in items] == [(" None", " a\nb"), (" NA", " CO")]
    assert [item.gold for item in items] == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'q,a\nx,1\n"two\nlines",2\nx,1,3\n', r"a.csv:5: 3 values for 2 columns"),
        ("a.csv", b"q,a\nx\n", r"a.csv:2: 1 values for 2 columns"),
        ("a.csv", b"q,a\nx,\xe9\n", r"a.csv:2: not UTF-8"),
        ("a.csv", b"q,q\nx,1\n", r"a.csv:1: two columns have the same name"),
        ("a.csv", b"q,a\n", r"a.csv has no rows"),
        ("a.json", b'[{"q": 1}, 2]', r"a.json row 2: a row must be an object, not 2"),
        ("a.json", b"[{", r"a.json: not JSON"),
        ("a.json", b'{"q": 1}\n{"q": ', r"a.json:2: not JSON"),
        ("a.json", b'{"x": [], "y": []}\n\n', r"a.json: an object with 2 lists"),
        ("a.json", b"3", r"a.json: rows must be a list of objects, not 3"),
        ("a.jsonl.gz", b"no gzip", r"cannot read .*a.jsonl.gz: .*zip"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "' + bytes(range(256)))[:-20], r"cannot read .*gz: "),
        ("a.parquet", b"PAR1", r"cannot read .*a.parquet: "),
        ("a.txt", b"", r"cannot read .*a.txt: rows are read from .jsonl, .json, .csv, "),
    ],
)
def test_a_fault_is_named_with_file_and_line(
    name: str, content: bytes, message: str, tmp_path: Path
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        [row.value("q") for row in read_file(path)]
    assert "\n" not in str(caught.value)


def test_json_holds_a_list_an_object_with_one_or_lines(tmp_path: Path):
    rows = [{"text": "a"}, {"text": "b"}]
    for content in (
        json.dumps(rows, indent=1),
        json.dumps({"version": 2, "data": rows}),
        "\n".join(map(json.dumps, rows)),
    ):
        path = tmp_path / "a.json"
        path.write_text(content)
        assert [row.text("text") for row in read_file(path)] == ["a", "b"]


# ---- several files ------------------------------------------------------------------------------


def test_the_files_of_a_folder_may_differ_in_format(tmp_path: Path, monkeypatch: Any):
    task = load_task("jsonl")
    plain = read_row_sets(task, write_files(tmp_path / "plain", task), None, 5, 5)
    mixed = write_files(tmp_path / "home" / "mixed", task)
    for split, name in (("train", "train.json"), ("validation", "dev.csv.gz")):
        file = mixed / f"{split}.jsonl"
        rows = [dict(row.columns) for row in read_file(file)]
        file.unlink()
        _write(mixed / name, rows)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sets = read_row_sets(task, Path("~/mixed"), None, 5, 5)
    assert sets.fingerprints() == plain.fingerprints()
    assert sets.read == {"test": 40, "dev": 40, "train": 40}


def test_two_files_for_one_split_are_refused(tmp_path: Path):
    task = load_task("jsonl")
    root = write_files(tmp_path, task)
    _write(root / "train.csv", ROWS)
    with pytest.raises(InputError, match=r"train.csv and .*train.jsonl could both be the train "):
        read_row_sets(task, root, None, 5, 5)
    (root / "train.csv").rename(root / "val.csv")
    with pytest.raises(InputError, match="validation and val could both be the validation rows"):
        read_row_sets(task, root, None, 5, 5)
    source = DataSource(root, splits={"validation": "validation"})
    assert sizes_of(read_row_sets(task, source, None, 5, 5)) == [40, 5, 5, 40]


def test_without_validation_rows_dev_is_carved_from_train(tmp_path: Path):
    task = load_task("jsonl")
    root = write_files(tmp_path, task)
    (root / "validation.jsonl").unlink()
    assert sizes_of(read_row_sets(task, root, None, 5, 5)) == [30, 5, 5, 40]
    # the test set may be another split
    source = DataSource(root, splits={"test": "train", "train": "test"})
    assert sizes_of(read_row_sets(task, source, None, 5, 5)) == [30, 5, 5, 40]


# ---- one file -----------------------------------------------------------------------------------


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    rows = numbered_rows(load_task("jsonl"), 300)
    lower = [{**row, "question": row["question"].lower()} for row in rows]
    return write_rows(tmp_path / "all.jsonl", [*rows, *lower])


def test_a_single_file_is_divided_by_the_text_of_its_rows(one_file: Path, tmp_path: Path):
    task = load_task("jsonl")
    sets = read_row_sets(task, one_file, None, 20, 30)
    assert sum(sizes_of(sets)) == 600 and sizes_of(sets)[1:3] == [20, 30]
    assert 30 <= len(sets.test) <= 90
    # rows that differ in case alone are in one set
    test = {fold(item.context) for item in sets.test}
    others = (*sets.train, *sets.calibration, *sets.dev)
    assert 2 * len(test) == len(sets.test)
    assert test.isdisjoint(fold(item.context) for item in others)
    # neither the seed, the order of the file nor more rows change the test set
    assert read_row_sets(task, one_file, None, 20, 30, seed=1).test == sets.test
    assert read_test_items(task, one_file) == sets.test
    more = numbered_rows(task, 50, 1000) + [dict(r.columns) for r in read_file(one_file)][::-1]
    larger = read_test_items(task, write_rows(tmp_path / "more.jsonl", more))
    assert {item.hash for item in sets.test} <= {item.hash for item in larger}
    half = read_row_sets(task, DataSource(one_file, test_share=0.5), None, 20, 30)
    assert 240 <= len(half.test) <= 360


def test_repeated_rows_of_a_single_file_are_faults(one_file: Path):
    task = load_task("jsonl")
    lines = one_file.read_text().splitlines()
    one_file.write_text("\n".join([*lines, lines[3]]))
    with pytest.raises(InputError, match=r"all.jsonl:601 is the same row as .*all.jsonl:4; "):
        read_row_sets(task, one_file, None, 20, 30)
    sets = read_row_sets(task, DataSource(one_file, bad_rows="skip"), None, 20, 30)
    assert sum(sizes_of(sets)) == 600 and sets.skipped == {"train": 1}


def test_too_few_rows_for_a_test_set_are_refused(tmp_path: Path):
    task = load_task("jsonl")
    path = write_rows(tmp_path / "a.jsonl", numbered_rows(task, 1))
    with pytest.raises(InputError, match=r"a.jsonl: 1 rows are too few for a test set"):
        read_row_sets(task, path, None, 1, 1)


# ---- the hub, and other names -------------------------------------------------------------------


def _hub(splits: dict[str, Any]) -> Callable[..., Any]:
    def load_dataset(name: str, config: str | None, split: str | None = None) -> Any:
        assert (name, config) == ("owner/name", "small")
        return splits if split is None else splits[split]

    return load_dataset


def test_a_data_set_of_the_hub_may_have_other_columns(hub: Callable[..., None]):
    from datasets import Dataset

    rows = [
        {
            "q": f"number {i}",
            "opts": {"text": [f"more than {i}", f"less than {i}"], "label": ["A", "B"]},
            "key": "AB"[i % 2],
            "id": i,
        }
        for i in range(200)
    ]
    hub(
        lambda *_, **__: None,
        _hub({"train": Dataset.from_list(rows[:150]), "test": Dataset.from_list(rows[150:])}),
    )
    columns: Any = {"question": "q", "choices": "opts.text", "answer": "key"}
    source = DataSource(hub="owner/name", hub_config="small", columns=columns)
    sets = read_row_sets(load_task("jsonl"), source, None, 20, 30)
    assert sizes_of(sets) == [100, 20, 30, 50]
    assert {(item.context, item.choices, item.gold) for item in sets.test} == {
        (f"Question: number {i}\nAnswer:", (f" more than {i}", f" less than {i}"), i % 2)
        for i in range(150, 200)
    }
    assert sets.unread_columns == ("id",)


def test_a_data_set_with_one_split_is_divided(hub: Callable[..., None]):
    from datasets import Dataset

    rows = Dataset.from_list([{"text": f"text {i}"} for i in range(200)])
    hub(lambda *_, **__: None, _hub({"train": rows}))
    source = DataSource(hub="owner/name", hub_config="small")
    sets = read_row_sets(load_task("text"), source, None, 20, 30)
    assert sum(sizes_of(sets)) == 200 and 5 <= len(sets.test) <= 40


def test_classes_of_the_hub_have_names(hub: Callable[..., None]):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(sentence=Value("string"), label=ClassLabel(names=["neg", "pos"]))
    splits = {
        split: Dataset.from_dict(
            {"sentence": [f"{split} {i}" for i in range(20)], "label": [i % 2 for i in range(20)]},
            features=features,
        )
        for split in ("train", "validation", "test")
    }
    hub(lambda *_, **__: None, _hub(splits))
    source = DataSource(hub="owner/name", hub_config="small", columns={"text": "sentence"})
    items = read_test_items(load_task("classification"), source)
    assert {item.choices for item in items} == {(" neg", " pos")}
    assert sum(item.gold for item in items) == 10


def test_missing_splits_of_a_data_set_are_named(hub: Callable[..., None]):
    hub(lambda *_, **__: None, _hub({"train": None, "unsupervised": None}))
    with pytest.raises(InputError, match="owner/name has no split test; it has train, unsup"):
        read_row_sets(load_task("text"), DataSource(hub="owner/name", hub_config="small"))


def test_one_column_may_be_made_of_several(tmp_path: Path):
    rows = [
        {"question": f"number {i}", "a": "one", "b": "two", "c": "" if i % 2 else "three", "n": "1"}
        for i in range(40)
    ]
    columns: Any = {"choices": ["a", "b", "c"], "answer": "n"}
    source = DataSource(_write(tmp_path / "a.csv", rows), columns=columns)
    items = read_test_items(load_task("jsonl"), source)
    assert {item.choices for item in items} == {(" one", " two"), (" one", " two", " three")}
    with pytest.raises(
        InputError, match=r"no column 'd'; the columns of .*a.csv:2 are: question, "
    ):
        read_row_sets(load_task("jsonl"), DataSource(source.root, columns={"choices": ["a", "d"]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": Path("x"), "hub": "a/b"}, "data.root and data.hub are two sources"),
        ({"hub_config": "c"}, "data.hub_config needs data.hub"),
        ({"test_share": 1.0}, "data.test_share must be between 0 and 1"),
        ({"splits": {"dev": "x"}}, "data.splits names train, validation and test"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        DataSource(**options)


def test_options_for_own_rows_are_refused_for_a_benchmark():
    with pytest.raises(InputError, match=r"data.hub is for rows of your own .* sciq has a fixed"):
        read_row_sets(load_task("sciq"), DataSource(hub="a/b"))


def test_a_csv_file_as_spreadsheets_write_it(tmp_path: Path):
    path = tmp_path / "rows.csv"
    long = "x " * 100_000
    path.write_text(f"text,label,,\n{long},a,,\nshort,b,,\n")
    first, second = read_file(path)
    assert first.columns == {"text": long, "label": "a"} and second.columns["text"] == "short"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "text,label\na,b\n".encode("utf-16")),
        ("rows.jsonl.xz", b"none"),
        ("rows.jsonl.zip", b"none"),
        ("rows.jsonl.gz", b"none"),
    ],
)
def test_a_damaged_file_is_one_line(name: str, content: bytes, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}.*(not UTF-8|zip|gzip|[Ff]ormat|ended)"):
        read_file(path)

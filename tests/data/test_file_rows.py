"""Rows that stay in their file: read again in any order, hashed, and chosen without their texts."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import write_rows
from trimlab.data.encoding import EncodedItem
from trimlab.data.file_rows import BLOCK
from trimlab.data.items import digest
from trimlab.data.packed_items import PackedItems
from trimlab.data.readers import read_file
from trimlab.data.source import DataSource
from trimlab.data.splits import SETS, read_row_sets
from trimlab.data.task import load_task
from trimlab.errors import InputError


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_rows_are_the_same_in_any_order(name: str, tmp_path: Path):
    path = tmp_path / name
    texts = [f"é{i}," + "x" * (BLOCK // 3 if i % 5 == 0 else 9) for i in range(23)]
    if name == "a.csv":
        # quotes, a line end in a value, blank lines and a row with too many values
        lines = [f'"{text}\r\n""{i}"""' for i, text in enumerate(texts)]
        lines[7] = "one,two\n\n"
        path.write_text("\ufefftext\n" + "\n".join(lines), newline="")
    elif name == "a.parquet":
        from datasets import Dataset

        Dataset.from_dict({"text": texts}).to_parquet(path)
    elif name == "a.json":
        path.write_text(json.dumps([*({"text": text} for text in texts[1:]), 5], indent=1))
    else:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        lines[4], lines[7] = "\n \t\n" + lines[4], "{"
        path.write_text("\ufeff" + "\r\n".join(lines), newline="")
    rows = read_file(path)
    every = list(rows)
    assert len(rows) == len(every) == len(texts)
    assert len({row.where for row in every}) == len(every)
    assert sum(row.fault is not None for row in every) == (name != "a.parquet")
    for index in (22, 0, 7, 5, -1, 21, 6):
        one, other = rows[index], every[index]
        assert (one.columns, one.where, one.fault) == (other.columns, other.where, other.fault)
    with pytest.raises(IndexError):
        rows[len(rows)]
    # two passes at once do not disturb each other
    pairs = [(a.where, b.where, rows[3].where) for a, b in zip(rows, rows, strict=True)]
    assert pairs == [(row.where, row.where, every[3].where) for row in every]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(9)])
    rows = read_file(path)
    assert rows[8].text("text") == "text 8"
    with path.open("a") as file:
        file.write('{"text": "more"}\n')
    for read in (lambda: rows[2], lambda: list(rows)):
        with pytest.raises(InputError, match=r"a.jsonl has changed while it was read; start again"):
            read()
    # another file in its place, or none, changes nothing
    rows = read_file(path)
    path.unlink()
    write_rows(path, [{"text": "other"}])
    assert len(rows) == 10 and rows[9].text("text") == "more"


def test_a_pipe_is_read_once(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    os.mkfifo(path)
    lines = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(3))
    writer = threading.Thread(target=path.write_text, args=(lines,))
    writer.start()
    rows = read_file(path)
    writer.join()
    assert [row.text("text") for row in (*rows, rows[1])] == [
        "text 0",
        "text 1",
        "text 2",
        "text 1",
    ]


def test_packed_items_are_the_items():
    tree = EncodedItem((5, 6, 7, 2**31 - 1), (0, 1, 2, 2), (0, 0, 1, 2), (1, 3), (8, 9), (0, 1), 1)
    one = EncodedItem((1,), (0,), (0,), (0,), (3,), (0,), 0, length=9, cut=7)
    packed = PackedItems()
    packed.extend([tree, one])
    packed.extend([])
    packed.extend([tree])
    assert list(packed) == packed[:] == [tree, one, tree] and packed[-2:] == [one, tree]
    assert (packed[1].length, packed[1].cut) == (9, 7)
    assert packed.lengths() == [4, 1, 4]


# ---- row sets on record --------------------------------------------------------------------------


def _made_up(start: int, count: int) -> list[Any]:
    """Rows with repetitions of every kind and with faults."""
    rows: list[Any] = [
        {
            "question": f"What is  number {i * 7 % 41}?",
            "choices": [f"Choice {i * 5 % 23}", f"choice {i * 3 % 17} \u00e9", "none"],
            "answer": i % 3,
        }
        for i in range(start, start + count)
    ]
    rows[3] = {**rows[4], "question": rows[4]["question"].upper()}  # differs in case
    rows[7] = {**rows[8], "choices": rows[8]["choices"][::-1]}  # in order and answer
    rows[9] = {**rows[10], "question": rows[10]["question"].replace("  ", " \n ")}  # in white space
    rows[15] = {**rows[15], "context": "A fact.", "id": 5}
    rows[19], rows[20], rows[21] = {"question": "lost"}, [1], {**rows[21], "answer": 9}
    return rows


RECORDED: dict[str, list[Any]] = {
    "folder": [
        {"train": 70, "calibration": 6, "dev": 9, "test": 77},
        "e3c053fdcfbda1ed",
        "93a55366b01db1ab",
        {"train": 11, "calibration": 6, "dev": 9, "test": 77},
        "6a714f3696ab7ed6",
        "3889091a7010f735",
        {"test": 3, "validation": 28, "train": 10},
        {"test": 80, "validation": 80, "train": 80},
        "6a111b3fd87b59c5",
    ],
    "file": [
        {"train": 215, "calibration": 6, "dev": 9, "test": 65},
        "165f0eaa071ae7c8",
        "5647c032019f7355",
        {"train": 11, "calibration": 6, "dev": 9, "test": 65},
        "9a556ee982eb65a2",
        "f48025f5c0f4b8f7",
        {"train": 5},
        {"train": 235, "test": 65},
        "e38cd295809600e4",
    ],
}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_row_sets_with_repetitions_and_faults_are_those_on_record(kind: str, tmp_path: Path):
    """Made by the first version, which held all rows in memory; records depend on the sets."""
    root = tmp_path
    if kind == "file":
        root = write_rows(tmp_path / "all.jsonl", _made_up(0, 300))
    else:
        for split, start in (("train", 0), ("validation", 70), ("test", 120)):
            write_rows(tmp_path / f"{split}.jsonl", _made_up(start, 80))
    task, found = load_task("jsonl"), []
    source = DataSource(root, bad_rows="skip", test_share=0.2)
    for seed, train in ((0, None), (1, 11)):
        sets = read_row_sets(task, source, train, 6, 9, None, seed)
        order = [item.where.removeprefix(str(tmp_path)) for n in SETS for item in getattr(sets, n)]
        found += [sets.counts(), digest(" ".join(sets.fingerprints().values())), digest(str(order))]
    with pytest.raises(InputError) as fault:
        read_row_sets(task, DataSource(root, test_share=0.2), None, 6, 9)
    texts = [*sets.notes, str(fault.value)]
    found += [sets.skipped, sets.read, digest("".join(texts).replace(str(tmp_path), ""))]
    assert found == RECORDED[kind]

"""Rows of the user's own: which of them are the test set, and what decides that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import numbered_rows, sizes_of, write_rows
from tests.tiny import TinyTokenizer
from trimlab.data.items import Item, fold
from trimlab.data.source import DataSource
from trimlab.data.splits import SETS, RowSets, read_row_sets, read_test_items, read_test_set
from trimlab.data.task import load_task
from trimlab.errors import InputError


def _places(sets: RowSets) -> dict[str, list[str]]:
    """The lines of the rows of every set, in order."""
    return {name: [item.where for item in getattr(sets, name)] for name in SETS}


# ---- data.splits --------------------------------------------------------------------------------


def _folder(root: Path, *splits: str) -> Path:
    for number, split in enumerate(splits):
        write_rows(root / f"{split}.jsonl", numbered_rows(load_task("jsonl"), 30, number * 100))
    return root


@pytest.mark.parametrize(
    ("there", "splits", "sizes"),
    [
        # calibration and dev are carved from train, as there are no other validation rows
        (("train", "validation"), {"test": "validation"}, [20, 5, 5, 30]),
        (("train", "validation", "test"), {"test": "validation"}, [20, 5, 5, 30]),
        (("train", "dev", "validation"), {"test": "validation"}, [30, 5, 5, 30]),
        (("train", "validation", "test"), {"validation": "train"}, [20, 5, 5, 30]),
        (
            ("train", "validation", "test"),
            {"validation": "test", "test": "train", "train": "validation"},
            [30, 5, 5, 30],
        ),
    ],
)
def test_a_named_split_is_no_default_of_another(
    there: tuple[str, ...], splits: dict[str, str], sizes: list[int], tmp_path: Path
):
    source = DataSource(_folder(tmp_path, *there), splits=splits)
    sets = read_row_sets(load_task("jsonl"), source, None, 5, 5)
    assert sizes_of(sets) == sizes
    assert {f"{splits.get('test', 'test')}.jsonl" in item.where for item in sets.test} == {True}
    assert read_test_items(load_task("jsonl"), source) == sets.test


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"validation": "test"}, "gives test to validation, and nothing is left for test: name"),
        ({"test": "train"}, "gives train to test, and nothing is left for train: name its rows"),
        ({"validation": "test", "test": "test"}, "data.splits: test is validation and test; "),
        ({"train": "test", "test": "test"}, "data.splits: test is train and test; test rows can"),
    ],
)
def test_test_rows_cannot_be_others(splits: dict[str, str], message: str, tmp_path: Path):
    root = _folder(tmp_path, "train", "validation", "test")
    with pytest.raises(InputError, match=message):
        read_row_sets(load_task("jsonl"), DataSource(root, splits=splits), None, 5, 5)


def test_splits_of_a_single_file_are_refused(tmp_path: Path):
    source = DataSource(_folder(tmp_path, "all") / "all.jsonl", splits={"test": "all"})
    with pytest.raises(InputError, match=r"all.jsonl is one file; data.splits names files of a f"):
        read_row_sets(load_task("jsonl"), source, None, 5, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.jsonl", r"^no file .*x.jsonl$"), ("x.csv.gz", r"^no file"), ("x", r"x is no folder; it")],
)
def test_a_root_that_is_not_there_is_named_as_what_it_was_meant_to_be(
    name: str, message: str, tmp_path: Path
):
    with pytest.raises(InputError, match=message):
        read_row_sets(load_task("jsonl"), tmp_path / name)


# ---- a single file ------------------------------------------------------------------------------


def test_the_template_of_a_chat_does_not_choose_its_rows(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer
):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {i // 2}?"},
                {"role": "assistant", "content": f"Answer {i}."},
            ]
        }
        for i in range(200)
    ]
    root = write_rows(tmp_path / "all.jsonl", rows)
    found = []
    for template in ("{{ m.role }}: {{ m.content }}\n", "[{{ m.role }}] {{ m.content }} [end]\n"):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = f"{{% for m in messages %}}{template}{{% endfor %}}"
        task = load_task("chat").with_tokenizer(tokenizer)
        found.append(_places(read_row_sets(task, root, None, 10, 10)))
    assert found[0] == found[1]
    questions = {
        name: {(int(place.rpartition(":")[2]) - 1) // 2 for place in places}
        for name, places in found[0].items()
    }
    assert questions["test"].isdisjoint(questions["train"])


def test_the_labels_of_a_classification_do_not_choose_its_rows(tmp_path: Path):
    rows = [{"text": f"text {i}", "label": "xy"[i % 2]} for i in range(100)]
    task = load_task("classification")
    root = write_rows(tmp_path / "all.jsonl", rows)
    sets = read_row_sets(task, root, None, 10, 10)
    more = read_row_sets(task, DataSource(root, labels=["z", "y", "x"]), None, 10, 10)
    assert _places(more) == _places(sets)
    write_rows(root, [*rows, {"text": "new", "label": "z"}])
    larger = read_test_items(task, root)
    assert {item.context for item in larger} - {"new\nLabel:"} == {i.context for i in sets.test}


def _prompts(items: list[Item]) -> set[str]:
    return {fold(item.context) for item in items}


def test_rows_with_the_same_prompt_are_in_one_set(tmp_path: Path):
    # as often in another case and with other white space
    ways = ("Question {}?", "question  {}?")
    rows = [{"question": ways[i % 2].format(i // 4), "answer": f"{i}"} for i in range(400)]
    task = load_task("completion")
    root = write_rows(tmp_path / "all.jsonl", rows)
    sets = read_row_sets(task, root, None, 30, 30)
    assert sum(sizes_of(sets)) == 400 and sizes_of(sets)[1:3] == [30, 30]
    train, calibration, dev, test = (_prompts(getattr(sets, name)) for name in SETS)
    assert test.isdisjoint(train | calibration | dev)
    # 30 rows are not a multiple of 4: one prompt is divided
    assert len(train & calibration) <= 1 and len(train & dev) <= 1
    # the same where only the test rows have a file of their own
    write_rows(tmp_path / "folder" / "train.jsonl", rows[:200])
    write_rows(tmp_path / "folder" / "test.jsonl", rows[200:])
    sets = read_row_sets(task, tmp_path / "folder", None, 30, 30)
    assert sizes_of(sets) == [140, 30, 30, 200]
    train, calibration, dev, _ = (_prompts(getattr(sets, name)) for name in SETS)
    assert len(train & calibration) <= 1 and len(train & dev) <= 1


def test_rows_with_one_prompt_are_divided_by_the_rest(tmp_path: Path):
    rows = [{"prompt": "Write a poem:", "completion": f" poem {i}"} for i in range(100)]
    root = write_rows(tmp_path / "all.jsonl", rows)
    sets = read_row_sets(load_task("completion"), root, None, 10, 10)
    assert sum(sizes_of(sets)) == 100 and 2 <= len(sets.test) <= 30
    for number, row in enumerate(rows):
        row["prompt"] = f"Write {number % 2 or 'a'}:"
    source = DataSource(write_rows(root, rows), test_share=1e-6)
    with pytest.raises(InputError, match=r"all.jsonl: 100 rows with 2 prompts are too few for a "):
        read_row_sets(load_task("completion"), source, None, 10, 10)


def test_a_test_set_that_is_a_share_of_the_rows_is_said_to_be(
    tmp_path: Path, hub: Callable[..., None]
):
    from datasets import Dataset

    task = load_task("jsonl")
    rows = numbered_rows(task, 100)
    splits = {"train": Dataset.from_list(rows)}

    def load_dataset(name: str, config: Any, split: str | None = None) -> Any:
        return splits if split is None else splits[split]

    hub(lambda *_, **__: None, load_dataset)
    root = write_rows(tmp_path / "all.jsonl", rows)
    for source, name in (
        (DataSource(root), str(root)),
        (DataSource(hub="owner/name"), "owner/name train"),
        (DataSource(hub="owner/name", splits={"test": "train"}), "owner/name train"),
    ):
        sets = read_row_sets(task, source, None, 10, 10)
        n = len(sets.test)
        note = f"{n} of the 100 rows of {name} are the test set (data.test_share)"
        assert 1 <= n <= 30 and sets.notes == read_test_set(task, source).notes == (note,)
    folder = _folder(tmp_path / "folder", "train", "test")
    assert read_test_set(task, folder).notes == ()

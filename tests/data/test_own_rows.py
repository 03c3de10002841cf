"""Rows of the user's own: tasks `jsonl` and `text`."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import example_item, write_files
from trimlab.data.items import Item
from trimlab.data.splits import read_row_sets
from trimlab.data.task import load_task
from trimlab.errors import InputError


@pytest.mark.parametrize(
    ("columns", "context"),
    [
        ({"context": " A fact. ", "question": " Why? "}, "A fact. \nQuestion: Why?\nAnswer:"),
        ({"context": "", "question": "Why?"}, "Question: Why?\nAnswer:"),
        ({"context": None, "question": "Why?"}, "Question: Why?\nAnswer:"),
        ({"context": "The sky is ", "question": ""}, "The sky is"),
        ({"context": "The sky is", "question": None}, "The sky is"),
    ],
)
def test_jsonl_does_without_context_or_question(columns: dict[str, Any], context: str):
    item = example_item("jsonl", **columns, choices=["blue", " green"], answer=1)
    assert item == Item(context, (" blue", " green"), 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"choices": ["one"]}, "1 choices; a question needs two or more"),
        ({"choices": []}, "0 choices; a question needs two or more"),
        ({"choices": ["one", " "]}, "an empty choice"),
        ({"choices": ["Co ", " Co"]}, "two of the choices are the same"),
        ({"choices": ["a  b", "a b"]}, "two of the choices are the same"),
        ({"choices": "one"}, "'choices' must be a list of texts, not \"one\""),
        ({"choices": [1, 2]}, r"'choices' must be a list of texts, not \[1, 2\]"),
        ({"answer": 2}, "answer 2 is out of range 0 to 1"),
        ({"answer": -1}, "answer -1 is out of range 0 to 1"),
        ({"answer": True}, "'answer' must be a whole number, not true"),
        ({"answer": "A"}, "'answer' must be a whole number, not \"A\""),
        ({"answer": None}, "'answer' must be a whole number, not null"),
        ({"context": 5}, "'context' must be text, not 5"),
        ({"question": ["Why?"]}, "'question' must be text, not "),
        ({"question": " ", "context": ""}, "neither a question nor a context"),
    ],
)
def test_a_bad_item_is_refused_with_its_line(tmp_path: Path, columns: dict[str, Any], message: str):
    task = load_task("jsonl")
    good = task.example
    assert good is not None
    for split in task.splits:
        root = write_files(tmp_path, task, **{split: [good, {**good, **columns}]})
        with pytest.raises(InputError, match=rf"{split}.jsonl:2: {message}") as caught:
            read_row_sets(task, root, None, 5, 5)
        assert "\n" not in str(caught.value)


def test_an_empty_text_is_refused(tmp_path: Path):
    task = load_task("text")
    root = write_files(tmp_path, task, train=[{"text": "a"}, {"text": " \n"}])
    with pytest.raises(InputError, match=r"train.jsonl:2: an empty choice or text"):
        read_row_sets(task, root, None, 5, 5)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("jsonl", {"choices"}),
        ("jsonl", {"answer"}),
        ("jsonl", {"question", "context"}),
        ("text", {"text"}),
    ],
)
def test_a_missing_column_is_refused(name: str, columns: set[str], tmp_path: Path):
    task = load_task(name)
    good = task.example
    assert good is not None
    row = {key: value for key, value in good.items() if key not in columns}
    for split in task.splits:
        root = write_files(tmp_path, task, **{split: [good, row]})
        with pytest.raises(InputError, match=rf"{split}.jsonl:2: ") as caught:
            read_row_sets(task, root, None, 5, 5)
        assert any(column in str(caught.value) for column in columns)
        assert all(found in str(caught.value) for found in row)

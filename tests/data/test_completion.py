"""Rows of prompts and completions: which format a row has, and what is prompt and what answer."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import write_files
from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.splits import read_row_sets
from trimlab.data.task import load_task
from trimlab.errors import InputError


def item_of(**columns: Any) -> Item:
    return load_task("completion").item(Row(columns, "rows.jsonl:1"), "authors")


@pytest.mark.parametrize(
    ("columns", "item"),
    [
        ({"prompt": "Why?", "completion": " So."}, Item("Why?", (" So.",), 0)),
        # one behind the other as they are; tokens begin with the space between them
        ({"prompt": "Label: ", "completion": "good"}, Item("Label:", (" good",), 0)),
        ({"prompt": "Label:", "completion": "good\n"}, Item("Label:", ("good\n",), 0)),
        # a line break in front of the answer is not scored
        ({"prompt": "Why?\n\n", "completion": "So."}, Item("Why?", ("\n\nSo.",), 0, ((2, 5),))),
        ({"prompt": "Why?", "completion": "\n So."}, Item("Why?", ("\n So.",), 0, ((1, 5),))),
        (
            {"instruction": " Sort. ", "input": "b a", "output": " a b\n"},
            Item(
                "### Instruction:\nSort.\n\n### Input:\nb a\n\n### Response:",
                ("\na b",),
                0,
                ((1, 4),),
            ),
        ),
        (
            {"instruction": "Greet.", "input": "", "output": "Hi.", "completion": None},
            Item("### Instruction:\nGreet.\n\n### Response:", ("\nHi.",), 0, ((1, 4),)),
        ),
        (
            # a data set's own rendering of the row, beside its parts
            {"instruction": "Greet.", "output": "Hi.", "prompt": "Greet. Hi."},
            Item("### Instruction:\nGreet.\n\n### Response:", ("\nHi.",), 0, ((1, 4),)),
        ),
        (
            {"question": "Who? ", "answer": "The owl. "},
            Item("Question: Who?\nAnswer:", (" The owl.",), 0),
        ),
        (
            {"context": "A bin.", "question": "Who?", "answer": "An owl."},
            Item("A bin.\nQuestion: Who?\nAnswer:", (" An owl.",), 0),
        ),
    ],
)
def test_prompt_and_answer(columns: dict[str, Any], item: Item):
    assert item_of(**columns) == item


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "a", "completion": " b", "question": "c", "answer": "d"}, "several formats"),
        ({"prompt": "a", "response": "b"}, "its columns are prompt, response; there must be"),
        ({"prompt": "a", "completion": None}, "there must be prompt and completion; instruction"),
        ({"question": "a", "answer": 1, "choices": ["b", "c"]}, "task jsonl"),
        ({"question": "a", "answer": ["b"]}, "'answer' must be text, not "),
        ({"prompt": " ", "completion": " b"}, "an empty prompt or completion"),
        ({"prompt": "a", "completion": "\n"}, "an empty prompt or completion"),
    ],
)
def test_a_row_that_is_not_understood_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
):
    task = load_task("completion")
    root = write_files(tmp_path, task, train=[task.example, columns])
    with pytest.raises(InputError, match=r"train.jsonl:2: ") as caught:
        read_row_sets(task, root, None, 5, 5)
    assert message in str(caught.value)


def test_the_metric_is_one_that_fits():
    for name in ("completion", "chat", "text"):
        task = load_task(name)
        assert task.metric == "exp_neg_loss"
        assert task.scored_by("token_accuracy").metric == "token_accuracy"
        assert task.scored_by(None).metric == "exp_neg_loss"
        with pytest.raises(InputError, match=f"data.metric of task {name} is exp_neg_loss or"):
            task.scored_by("accuracy")
    assert load_task("jsonl").scored_by("accuracy").metric == "accuracy"
    with pytest.raises(InputError, match="data.metric of task jsonl is accuracy, not token"):
        load_task("jsonl").scored_by("token_accuracy")

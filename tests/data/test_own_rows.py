"""Rows of the user's own: tasks `jsonl`, `text` and `classification`."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import (
    all_items,
    example_item,
    numbered_rows,
    sizes_of,
    write_files,
    write_rows,
)
from trimlab.data.items import Item
from trimlab.data.source import DataSource
from trimlab.data.splits import read_row_sets, read_test_items, read_test_set
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
        ({"question": "cut \ud83d"}, r"a broken character \(half of a surrogate pair\)"),
        ({"choices": ["\ude00", "a"]}, "a broken character"),
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


# ---- case, faults of single rows, unread columns -------------------------------------------------


def test_choices_and_rows_may_differ_in_case_alone(tmp_path: Path):
    task = load_task("jsonl")
    genotypes = {"question": "Which genotype?", "choices": ["AA", "Aa", "aa"], "answer": 1}
    formula = {"question": "CO or Co?", "choices": ["CO", "Co"], "answer": 0}
    other = {"question": "co or CO?", "choices": ["CO", "Co"], "answer": 0}
    good = numbered_rows(task, 40)
    root = write_files(tmp_path, task, train=[other, genotypes], test=[formula], validation=good)
    sets = read_row_sets(task, root, None, 5, 5)
    assert {item.choices for item in sets.train} == {(" CO", " Co"), (" AA", " Aa", " aa")}
    # only white space does not tell rows apart
    same = {**formula, "question": "CO  or Co? "}
    root = write_files(tmp_path, task, train=[genotypes, same], test=[formula], validation=good)
    with pytest.raises(InputError, match=r"train.jsonl:2 is the same row as .*test.jsonl:1; "):
        read_row_sets(task, root, None, 5, 5)


def test_a_row_with_another_answer_is_said_to_have_one(tmp_path: Path):
    task = load_task("jsonl")
    row = {"question": "Which colour?", "choices": ["red", "Blue"], "answer": 0}
    root = write_files(tmp_path, task, test=[row], train=[{**row, "answer": 1}])
    message = r"train.jsonl:1 has the text and choices of .*test.jsonl:1 and another answer; keep"
    with pytest.raises(InputError, match=message):
        read_row_sets(task, root, None, 5, 5)


def _faulty(root: Path) -> Path:
    """Own rows with eight faults of different kinds, in all files."""
    task = load_task("jsonl")
    good = numbered_rows(task, 40)
    train = [{**row, "question": f"train {i}"} for i, row in enumerate(good)]
    test = [{**row, "question": f"test {i}"} for i, row in enumerate(good)]
    faults = [{"choices": ["a", "a"]}, {"choices": ["a"]}, {"answer": 2}, {"answer": None}]
    train[10:14] = [{**row, **fault} for row, fault in zip(train[10:14], faults, strict=True)]
    train[20] = {"question": "lost"}
    test[5] = {**test[5], "question": " ", "context": ""}
    write_files(root, task, train=[*train, test[0]], validation=good, test=test)
    with (root / "validation.jsonl").open("a") as file:
        file.write("{\n")
    return root


def test_all_faults_are_counted_and_five_are_named(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        read_row_sets(load_task("jsonl"), _faulty(tmp_path), None, 5, 5)
    message = str(caught.value)
    assert message.startswith("8 faulty rows: ") and "\n" not in message
    for place in (
        "test.jsonl:6: neither a question",
        "validation.jsonl:41: not JSON",
        "train.jsonl:11: two of the choices are the same",
        "train.jsonl:12: 1 choices",
        "train.jsonl:13: answer 2 is out of range",
    ):
        assert place in message
    assert "train.jsonl:14" not in message
    assert message.endswith("; and 3 more; data.bad_rows skip leaves faulty rows out")


def test_faulty_rows_are_skipped_counted_and_named(tmp_path: Path):
    source = DataSource(_faulty(tmp_path), bad_rows="skip")
    sets = read_row_sets(load_task("jsonl"), source, None, 5, 5)
    assert sizes_of(sets) == [35, 5, 5, 39]
    assert sets.skipped == {"train": 6, "validation": 1, "test": 1}
    assert sets.read == {"train": 41, "validation": 41, "test": 40}
    # a row in two sets stays in the one nearer to test
    assert "Question: test 0" in " ".join(item.context for item in sets.test)
    (note,) = [note for note in sets.notes if "skipped 6 of 41 rows" in note]
    assert "train.jsonl:14: 'answer' must be a whole number, not null" in note
    assert note.endswith("; and 1 more")
    assert len(read_test_items(load_task("jsonl"), source)) == 39


def test_rows_that_are_all_faulty_are_not_skipped(tmp_path: Path):
    task = load_task("text")
    root = write_files(tmp_path, task, test=[{"txt": "a"}, {"txt": "b"}])
    with pytest.raises(InputError, match=r"no row of test can be used: .*test.jsonl:1: no column"):
        read_row_sets(task, DataSource(root, bad_rows="skip"), None, 5, 5)


def test_unread_columns_are_named_once_with_the_nearest_known(tmp_path: Path):
    task = load_task("jsonl")
    good = [{k: v for k, v in row.items() if k != "context"} for row in numbered_rows(task, 120)]
    rows = [{**row, "passage": "A fact."} for row in good]
    splits = {"train": rows[:40], "validation": rows[40:80], "test": rows[80:]}
    root = write_files(tmp_path, task, **splits)
    sets = read_row_sets(task, root, None, 5, 5)
    assert sets.unread_columns == ("passage",)
    (note,) = sets.notes
    assert re.fullmatch(
        r"column 'passage' of .*test.jsonl is not read; task jsonl also reads 'context'", note
    )
    # read under its own name, it is part of the prompt
    sets = read_row_sets(task, DataSource(root, columns={"context": "passage"}), None, 5, 5)
    assert sets.unread_columns == () and sets.notes == ()
    assert all(item.context.startswith("A fact.\nQuestion") for item in sets.train)


def test_unread_columns_without_a_near_name(tmp_path: Path):
    task = load_task("jsonl")
    good = [{k: v for k, v in row.items() if k != "context"} for row in numbered_rows(task, 120)]
    rows = [{**row, "id": 3, "contxt": "A fact.", "url": ""} for row in good]
    splits = {"train": rows[:40], "validation": rows[40:80], "test": rows[80:]}
    sets = read_row_sets(task, write_files(tmp_path, task, **splits), None, 5, 5)
    near, others = sets.notes
    assert "column 'contxt'" in near and near.endswith("did you mean 'context'?")
    assert "columns 'id', 'url'" in others
    assert others.endswith("are not read; task jsonl also reads 'context'")


def test_a_column_that_another_takes_the_place_of_is_named(tmp_path: Path):
    task = load_task("jsonl")
    rows = [{**row, "q": f"Really {i}?"} for i, row in enumerate(numbered_rows(task, 40))]
    root = write_rows(tmp_path / "test.jsonl", rows).parent
    found = read_test_set(task, DataSource(root, columns={"question": "q"}))
    assert all("Question: Really" in item.context for item in found.items)
    (note,) = found.notes
    assert re.fullmatch(
        r"column 'question' of .*test.jsonl is not read: data.columns reads .*", note
    )
    swapped = DataSource(root, columns={"question": "q", "context": "question"})
    (note,) = read_test_set(task, swapped).notes
    assert note.startswith("column 'context' of ")


# ---- how answers are stated ---------------------------------------------------------------------

CHOICES = ["red", "green", "blue"]


def _golds(root: Path, stated: list[Any], choices: list[str], **options: Any) -> list[int]:
    """The gold indices of test rows with these answers, in the order of the file."""
    rows = [
        {"question": f"q {i}", "choices": choices, "answer": answer}
        for i, answer in enumerate(stated)
    ]
    write_rows(root / "test.jsonl", rows)
    items = read_test_items(load_task("jsonl"), DataSource(root, **options))
    return [item.gold for item in sorted(items, key=lambda item: item.context)]


@pytest.mark.parametrize(
    ("answers", "golds"),
    [
        ([0, 2, 1], [0, 2, 1]),
        ([1, 3, 2], [0, 2, 1]),  # 3 is the last choice and none is 0
        ([1, 1, 2], [1, 1, 2]),  # nothing excludes indices
        (["0", "2"], [0, 2]),
        (["A", "C", "b"], [0, 2, 1]),
        (["(A)", "C.", "B)"], [0, 2, 1]),
        (["red", " blue", "green"], [0, 2, 1]),
        ([0.0, 2.0, 1.0], [0, 2, 1]),  # pandas, where an answer was missing
    ],
)
def test_answers_are_understood_as_all_rows_show(
    answers: list[Any], golds: list[int], tmp_path: Path
):
    assert _golds(tmp_path, answers, CHOICES) == golds


def test_answers_in_one_notation_decide_for_all_files(tmp_path: Path):
    train = [{"question": f"t{i}", "choices": CHOICES, "answer": i % 3 + 1} for i in range(9)]
    write_rows(tmp_path / "train.jsonl", train)
    assert _golds(tmp_path, [1, 2], CHOICES) == [0, 1]


def test_the_option_decides(tmp_path: Path):
    assert _golds(tmp_path, [1, 1, 2], CHOICES, answers="one_based") == [0, 0, 1]
    assert _golds(tmp_path, ["B", "A"], ["B", "A"], answers="letter") == [1, 0]
    assert _golds(tmp_path, ["B", "A"], ["B", "A"], answers="text") == [0, 1]


def test_an_answer_with_two_meanings_is_refused_with_its_line(tmp_path: Path):
    message = (
        r'test.jsonl:1: the answer "B" could be letter \(choice 2\) or text \(choice 1\); say which'
    )
    with pytest.raises(InputError, match=message):
        _golds(tmp_path, ["B", "A"], ["B", "A"])
    with pytest.raises(InputError, match=r'test.jsonl:1: the answer "2" could be index \(choice 3'):
        _golds(tmp_path, ["2", "1"], ["1", "2", "3"])
    # the same choice in either meaning
    assert _golds(tmp_path, ["B", "A"], ["A", "B"]) == [1, 0]


@pytest.mark.parametrize(
    ("answers", "choices", "message"),
    [
        ([0, 1, 3, 2], CHOICES, "test.jsonl:3: answer 3 is out of range 0 to 2"),
        ([1, 3, 2, 1, 3, 0], CHOICES, "test.jsonl:6: answer 0 is out of range 1 to 3"),
        (["A", "B", "E"], CHOICES, "test.jsonl:3: answer E is out of range A to C"),
        (["red", "blue", "pink"], CHOICES, "test.jsonl:3: 'answer' must be the text of one choice"),
        (["A", "B", 1.5], CHOICES, "test.jsonl:3: 'answer' must be a letter, not 1.5"),
        (["B"], [], "test.jsonl:1: 0 choices; a question needs two or more"),
        (["A", "B", 1], CHOICES, "test.jsonl:3: 'answer' must be a letter, not 1"),
    ],
)
def test_an_answer_unlike_the_others_is_refused_with_its_line(
    answers: list[Any], choices: list[str], message: str, tmp_path: Path
):
    with pytest.raises(InputError, match=message):
        _golds(tmp_path, answers, choices)


# ---- classification -----------------------------------------------------------------------------


def _labelled(root: Path, **labels: list[Any]) -> Path:
    for split, values in labels.items():
        rows = [{"text": f"{split} {i}", "label": label} for i, label in enumerate(values)]
        write_rows(root / f"{split}.jsonl", rows)
    return root


@pytest.mark.parametrize(
    ("labels", "options", "choices", "golds"),
    [
        (["sport", "law", "sport"], {}, (" law", " sport"), [1, 0, 1]),
        ([10, 9, 10], {}, (" 9", " 10"), [1, 0, 1]),
        (["1", "01", "001"], {}, (" 001", " 01", " 1"), [2, 1, 0]),
        ([1.0, 0.0, 1.0], {}, (" 0", " 1"), [1, 0, 1]),  # pandas, where a label was missing
        ([1.0, 0.0, 1.0], {"labels": ["law", "sport"]}, (" law", " sport"), [1, 0, 1]),
        ([True, False, True], {}, (" false", " true"), [1, 0, 1]),
        ([1, 0, 1], {"labels": ["law", "sport"]}, (" law", " sport"), [1, 0, 1]),
        (["1", "0", "1"], {"labels": ["law", "sport"]}, (" law", " sport"), [1, 0, 1]),
        (["law", "sport", "law"], {"labels": ["sport", "law"]}, (" sport", " law"), [1, 0, 1]),
    ],
)
def test_the_choices_of_a_classification_are_all_labels(
    labels: list[Any],
    options: Any,
    choices: tuple[str, ...],
    golds: list[int],
    tmp_path: Path,
):
    root = _labelled(tmp_path, train=labels, validation=labels * 2, test=labels)
    task = load_task("classification")
    sets = read_row_sets(task, DataSource(root, **options), None, 2, 2)
    items = sorted(sets.test, key=lambda item: item.context)
    assert [item.context for item in items] == [f"test {i}\nLabel:" for i in range(3)]
    assert {item.choices for item in all_items(sets)} == {choices}
    assert [item.gold for item in items] == golds
    assert sets.test == read_test_items(task, DataSource(root, **options))


def test_a_label_that_no_train_row_has_is_refused_with_its_place(tmp_path: Path):
    good = ["law", "sport"] * 5
    root = _labelled(tmp_path, train=good, validation=good, test=["law", "art"])
    message = r"test.jsonl:2: label 'art' is not in the train rows: law, sport"
    task = load_task("classification")
    with pytest.raises(InputError, match=message):
        read_row_sets(task, root, None, 2, 2)
    with pytest.raises(InputError, match=message):
        read_test_items(task, root)
    with pytest.raises(InputError, match=r"test.jsonl:2: label 'art' is not in data.labels: "):
        read_test_items(task, DataSource(root, labels=["law", "sport"]))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["law"] * 9, "needs two labels or more, and there is only 'law'"),
        ([None] * 9, r"test.jsonl:1: label 'law' is not in|'label' must be text or a number"),
        ([float("nan")] * 9, r"'label' must be text or a number, not NaN"),
        ([0.5] * 9, r"'label' must be text or a number, not 0.5"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(train: list[Any], message: str, tmp_path: Path):
    root = _labelled(tmp_path, train=train, validation=train, test=train)
    with pytest.raises(InputError, match=message):
        read_row_sets(load_task("classification"), root, None, 2, 2)


def test_columns_that_train_rows_alone_are_asked_for_are_read(tmp_path: Path):
    task = load_task("classification")
    for split in ("train", "validation", "test"):
        rows = [
            {"text": f"{split} {i}", "label": "xy"[i % 2], "labels": ["x", "y", "z"]}
            for i in range(10)
        ]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    assert read_test_set(task, tmp_path).notes == ()
    assert read_row_sets(task, tmp_path, None, 2, 2).notes == ()


def test_an_optional_column_of_labels_is_not_proposed(tmp_path: Path):
    for split in ("train", "validation", "test"):
        rows = [
            {"text": f"{split} {i}", "label": "xy"[i % 2], "label_text": "?"} for i in range(10)
        ]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    (note,) = read_row_sets(load_task("classification"), tmp_path, None, 2, 2).notes
    assert note.startswith("column 'label_text' of ") and note.endswith("test.jsonl is not read")


def test_a_broken_label_is_the_fault_of_its_row_alone(tmp_path: Path):
    good = ["law", "sport"] * 5
    root = _labelled(tmp_path, train=[*good, "\ud83d"], validation=good, test=good)
    source = DataSource(root, bad_rows="skip")
    sets = read_row_sets(load_task("classification"), source, None, 2, 2)
    assert sets.skipped == {"train": 1}
    assert {item.choices for item in all_items(sets)} == {(" law", " sport")}

"""Items of single benchmarks."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import (
    example_item,
    file_of,
    numbered_rows,
    sizes_of,
    splits_of,
    write_files,
    write_rows,
)
from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.source import DataSource
from trimlab.data.splits import SETS, read_row_sets, read_test_items
from trimlab.data.task import load_task
from trimlab.errors import InputError


def test_sciq_is_asked_as_in_the_harness():
    item = example_item("sciq", support="  A passage. ")
    assert item.context == "A passage. \nQuestion: What do plants take in from the air?\nAnswer:"
    assert item.choices == (" helium", " gold", " salt", " carbon dioxide") and item.gold == 3
    assert example_item("sciq", support="").context.startswith("\nQuestion: ")


def test_piqa_keeps_the_solutions_as_they_are():
    item = example_item("piqa", sol2="put ice in it ", label=1)
    assert item.context == "Question: To keep soup warm,\nAnswer:"
    assert item.choices == (" put a lid on it.", " put ice in it ") and item.gold == 1


def test_casehold_is_the_passage_and_its_holdings():
    item = example_item("casehold", context="See Doe (<HOLDING>). ", label=2)
    assert item.context == "See Doe (<HOLDING>)."
    assert item.choices[2] == " holding that hearsay is not evidence" and item.gold == 2


def test_a_casehold_sample_is_divided_into_splits(tmp_path: Path):
    task = load_task("casehold")
    sample = numbered_rows(task, 100)
    write_rows(tmp_path / "test.jsonl", sample)
    splits = [
        [row.text("context") for row in task.rows(s, DataSource(tmp_path))] for s in splits_of(task)
    ]
    assert sorted(context for split in splits for context in split) == sorted(
        row["context"] for row in sample
    )
    assert all(len(split) > 10 for split in splits)
    write_rows(tmp_path / "test.jsonl", sample[:50])  # a row's place depends on nothing else
    for split, before in zip(splits_of(task), splits, strict=True):
        assert {row.text("context") for row in task.rows(split, DataSource(tmp_path))} <= set(
            before
        )
    write_rows(tmp_path / "train.jsonl", sample[50:])  # no sample any more
    assert len(task.rows("test", DataSource(tmp_path))) == 50
    with pytest.raises(InputError, match=r"^no file .*validation.jsonl$"):
        task.rows("validation", DataSource(tmp_path))


def test_pubmedqa_refuses_another_answer():
    with pytest.raises(InputError, match="'final_decision' must be one of yes, no, maybe, not "):
        example_item("pubmedqa", final_decision="perhaps")


def test_pubmedqa_pools_two_splits_of_the_hub(hub: Callable[..., None]):
    from datasets import Dataset

    task = load_task("pubmedqa")
    counts = {"train": 45, "validation": 5, "test": 50}
    hub(
        lambda *_, **__: None,
        lambda name, config, split: Dataset.from_list(
            numbered_rows(task, counts[split], len(split) * 100)
        ),
    )
    assert sizes_of(read_row_sets(task, None, None, 5, 5)) == [40, 5, 5, 50]


def test_prompts_ask_the_same_rows(tmp_path: Path):
    task = load_task("medmcqa")
    root = write_files(tmp_path, task)
    authors, harness = (read_row_sets(task, root, 9, 4, 3, 9, prompt=p) for p in task.prompts)
    for name in SETS:
        for one, two in zip(getattr(authors, name), getattr(harness, name), strict=True):
            assert one.gold == two.gold
            question = one.context.removesuffix("\nAnswer:")
            options = "".join(
                f"{letter}.{choice}\n" for letter, choice in zip("ABCD", one.choices, strict=True)
            )
            assert two.context == f"{question}\nChoices:\n{options}Answer:"
            assert two.choices == (" A", " B", " C", " D")


@pytest.mark.parametrize("name", ["mmlu_law", "financeqa"])
def test_mmlu_wants_four_options(name: str, tmp_path: Path):
    task = load_task(name)
    part = task.parts("test")[0]
    row = {**(part.example or {}), "choices": ["up", "down"]}
    path = write_rows(file_of(write_files(tmp_path, task), task, part, "test"), [row])
    with pytest.raises(InputError, match=f"{path}:1: 'choices' must be 4 texts"):
        read_test_items(task, tmp_path)


def test_lexglue_trains_on_casehold_and_is_evaluated_on_law(tmp_path: Path):
    task = load_task("lexglue")
    sets = read_row_sets(task, write_files(tmp_path, task), None, 5, 5, prompt="harness")
    assert {len(item.choices) for item in sets.train + sets.calibration + sets.dev} == {5}
    assert {item.choices for item in sets.test} == {(" A", " B", " C", " D")}
    topics = Counter(item.context.splitlines()[0].partition("about ")[2] for item in sets.test)
    assert topics == {"professional law.": 40, "international law.": 40, "jurisprudence.": 40}


def test_financeqa_learns_free_form_answers_and_scores_choices(tmp_path: Path):
    task = load_task("financeqa")
    root = write_files(tmp_path, task)
    alpaca = tmp_path / "alpaca" / "train.jsonl"
    rows = [
        {"instruction": "Say what a bond is.", "input": "", "output": " A loan. "},
        {"instruction": "Add up.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say nothing.", "input": "", "output": " \n"},
    ]
    write_rows(alpaca, rows)
    sets = read_row_sets(task, root, None, 40, 30)
    assert sets.dropped == {"train": 1, "test": 0}
    assert sizes_of(sets) == [40 + 40 - 70 + 2, 40, 30, 120]
    free_form = {item.context: item.choices for item in sets.train if len(item.choices) == 1}
    assert free_form == {
        "Question: Say what a bond is.\nAnswer:": (" A loan.",),
        "1 and 2\nQuestion: Add up.\nAnswer:": (" 3",),
    }
    assert all(len(item.choices) == 3 for item in sets.calibration + sets.dev)
    # with free-form rows to train on, every other row may be held out
    assert sizes_of(read_row_sets(task, root, None, 40, 40))[0] == 2
    with pytest.raises(InputError, match="too few for 41 calibration and 40 dev rows; lower"):
        read_row_sets(task, root, None, 41, 40)


def test_legalbench_asks_each_of_its_tasks():
    parts = {part.name.partition("/")[2]: part for part in load_task("legalbench").parts("test")}
    assert len(parts) == 29

    def item(name: str, **columns: Any) -> Item:
        part = parts[name]
        return part.item(Row({**(part.example or {}), **columns}, "rows.jsonl:1"), "authors")

    assert item("proa", text="A tenant may sue. ", answer="No") == Item(
        "A tenant may sue.\nQuestion: Does this clause give individuals a right to sue?\nAnswer:",
        (" Yes", " No"),
        gold=1,
    )
    # the label B of this task means yes
    signing = item("maud_intervening_event_-_required_to_occur_after_signing_-_answer", answer="B")
    assert signing.choices[signing.gold] == " Yes"
    assert item("abercrombie", answer="fanciful").choices[4] == " fanciful"
    bill = item("corporate_lobbying").context.splitlines()
    assert len(bill) == 6 and bill[0] == "A bill on bread" and bill[3] == "We bake bread."
    for answer in ("C", "AB", "", 1, None, ["A"]):
        with pytest.raises(InputError, match="'answer' must be one of A, B, not "):
            item("maud_knowledge_definition", answer=answer)


def test_flaws_of_a_published_benchmark_are_kept(tmp_path: Path):
    task = load_task("piqa")
    assert task.example is not None
    twice = {**task.example, "sol2": task.example["sol1"]}
    root = write_files(tmp_path, task, validation=[twice])
    assert len(read_row_sets(task, root, None, 5, 5).test) == 1

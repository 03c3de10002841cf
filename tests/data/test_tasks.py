"""Every task file keeps to the contract of `Task`."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import (
    all_items,
    file_of,
    file_parts,
    sizes_of,
    splits_of,
    write_files,
    write_rows,
)
from tests.tiny import TinyTokenizer
from trimlab.data.rows import Row
from trimlab.data.splits import read_row_sets, read_test_items
from trimlab.data.task import TASKS, Task, load_task
from trimlab.errors import InputError
from trimlab.plugins import plugin_names


def test_an_unknown_task_is_refused_with_a_list():
    for name in ("nonesuch", "sciq.SciQ", "", "../sciq"):
        with pytest.raises(InputError, match=f"there are {', '.join(plugin_names(TASKS))}"):
            load_task(name)


def test_files_that_tasks_share_are_no_tasks():
    assert "_mmlu" not in plugin_names(TASKS)
    with pytest.raises(InputError, match="no task '_mmlu'"):
        load_task("_mmlu")


def test_one_part_of_a_mixture_is_a_task(tmp_path: Path):
    mixture, part = load_task("mmlu_law"), load_task("mmlu_law/jurisprudence")
    root = write_files(tmp_path, mixture)
    contexts = {item.context for item in read_test_items(mixture, root)}
    assert part.name == "mmlu/jurisprudence" and part.splits == mixture.splits
    items = read_test_items(part, root)
    assert len(items) == 40 and {item.context for item in items} < contexts
    with pytest.raises(InputError, match="mmlu_law has no part 'law'; there are professional_law"):
        load_task("mmlu_law/law")


@pytest.mark.parametrize("name", plugin_names(TASKS))
def test_a_task_says_what_it_is(name: str):
    task = load_task(name)
    assert task.name == name
    assert "Source:" in (sys.modules[type(task).__module__].__doc__ or "") and task.licence
    assert task.metric in ("accuracy", "exp_neg_loss")
    assert task.generate == 0 or task.metric != "accuracy"
    assert task.prompts[0] == "authors"


@pytest.mark.parametrize("name", plugin_names(TASKS))
def test_a_task_makes_four_row_sets(name: str, tmp_path: Path, tiny_tokenizer: TinyTokenizer):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    task = load_task(name).with_tokenizer(tokenizer)
    root = write_files(tmp_path, task) if file_parts(task, "test") else None
    for prompt in task.prompts:
        sets = read_row_sets(task, root, 10, 4, 3, 20, prompt=prompt)
        assert sizes_of(sets) == [10, 4, 3, 20]
        for item in all_items(sets):
            assert item.context == item.context.rstrip()
            assert 0 <= item.gold < len(item.choices)
            if task.metric == "accuracy":
                free_form = any(part.free_form for part in task.parts(task.splits[0]))
                assert len(item.choices) > 1 or (free_form and item in sets.train)
                assert all(choice.startswith(" ") for choice in item.choices)
            else:
                assert len(item.choices) == 1
                assert bool(item.context) == bool(task.generate)
                spans = (0, *(place for span in item.scored for place in span))
                assert list(spans) == sorted(spans) and spans[-1] <= len(item.choices[0])
        assert read_row_sets(task, root, 10, 4, 3, 20, prompt=prompt) == sets
        assert read_test_items(task, root, 20, prompt=prompt) == sets.test
    with pytest.raises(InputError, match=f"task {name} has no prompt 'other'; there is authors"):
        read_row_sets(task, root, prompt="other")


class _Recorder(Mapping[str, Any]):
    """The columns of a row; remembers those that were read."""

    def __init__(self, columns: Mapping[str, Any]):
        self.columns, self.read = columns, set[str]()

    def __getitem__(self, column: str) -> Any:
        self.read.add(column)
        return self.columns[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, column: object) -> bool:
        return column in self.columns


def _columns_read(part: Task) -> list[str]:
    """The columns that the item of a task's example is made of, in the order of the example."""
    assert part.example is not None
    columns = _Recorder(part.example)
    for prompt in part.prompts:
        part.item(Row(columns, "the example"), prompt)
    return [column for column in part.example if column in columns.read]


def _columns_of_published_tasks() -> dict[str, tuple[str, str, str, str]]:
    """Every column that is read, once for each kind of part.

    Rows of the user's own may lack some columns, see test_own_rows.py.
    """
    columns = {}
    for name in plugin_names(TASKS):
        task = load_task(name)
        if task.own_rows:
            continue
        for split in (task.splits[2], *splits_of(task)):
            for part in file_parts(task, split):
                for column in _columns_read(part):
                    key = f"{name}-{type(part).__name__}-{column}"
                    columns.setdefault(key, (name, split, part.name, column))
    return columns


@pytest.mark.parametrize(
    ("name", "split", "part_name", "column"),
    _columns_of_published_tasks().values(),
    ids=_columns_of_published_tasks(),
)
def test_a_missing_column_is_refused(
    name: str, split: str, part_name: str, column: str, tmp_path: Path
):
    task = load_task(name)
    (part,) = (part for part in task.parts(split) if part.name == part_name)
    good = part.example
    assert good is not None
    row = {key: value for key, value in good.items() if key != column}
    path = file_of(write_files(tmp_path, task), task, part, split)
    write_rows(path, [good, row])
    with pytest.raises(InputError, match=rf"{split}.jsonl:2: ") as caught:
        read_row_sets(task, tmp_path, None, 5, 5)
    assert str(path) in str(caught.value) and column in str(caught.value)
    assert all(found in str(caught.value) for found in row)


@pytest.mark.parametrize("name", [n for n in plugin_names(TASKS) if len(load_task(n).prompts) > 1])
def test_every_prompt_has_the_same_rows(name: str, tmp_path: Path):
    task = load_task(name)
    root = write_files(tmp_path, task)
    one, two = (read_row_sets(task, root, 9, 4, 3, 9, prompt=prompt) for prompt in task.prompts)
    assert [item.gold for item in all_items(one)] == [item.gold for item in all_items(two)]
    assert one.test != two.test

"""Tasks: reading rows, making the four row sets, and every task file there is."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimlab.data.heuristic_baselines import majority_accuracy, word_overlap_accuracy
from trimlab.data.items import Item
from trimlab.data.rows import Row, read_jsonl
from trimlab.data.splits import RowSets, read_row_sets, read_test_items
from trimlab.data.task import TASKS, Task, load_task
from trimlab.errors import InputError
from trimlab.plugins import plugin_names

SETS = ("train", "calibration", "dev", "test")


def _numbered(value: Any, number: int) -> Any:
    """The value with a number behind each of its texts, to make rows that differ."""
    if isinstance(value, str):
        return f"{value} {number}" if " " in value else value  # a single word may be a label
    if isinstance(value, list):
        return [_numbered(part, number) for part in value]
    return value


def numbered_rows(task: Task, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows that differ, made from the task's own example."""
    assert task.example is not None
    return [
        {name: _numbered(value, number) for name, value in task.example.items()}
        for number in range(start, start + count)
    ]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _splits(task: Task) -> list[str]:
    return list(dict.fromkeys(task.splits))


def _parts(task: Task, split: str) -> list[Task]:
    """Whose rows a split holds, if they are read from files."""
    return [part for part in task.parts(split) if part.example is not None]


def _file(root: Path, task: Task, part: Task, split: str) -> Path:
    return (root if part is task else root / part.name) / f"{split}.jsonl"


def _files(root: Path, task: Task, **changes: list[Any]) -> Path:
    """A folder with 40 rows a file, made from the tasks' own examples."""
    start = 0
    for split in _splits(task):
        for part in _parts(task, split):
            rows = changes.get(split, numbered_rows(part, 40, start))
            write_rows(_file(root, task, part, split), rows)
            start += 100
    return root


def _rows(path: Path) -> list[dict[str, Any]]:
    return [dict(row.columns) for row in read_jsonl(path)]


def _sizes(sets: RowSets) -> list[int]:
    return [len(getattr(sets, name)) for name in SETS]


def _all(sets: RowSets) -> list[Item]:
    return [item for name in SETS for item in getattr(sets, name)]


def _hashes(items: Iterable[Item]) -> list[str]:
    return [item.hash for item in items]


# ---- items and rows -----------------------------------------------------------------------------


def test_hash_ignores_white_space_and_nothing_else():
    item = Item("Question: why?\nAnswer:", (" yes", " no"), 1)
    assert item.hash == Item("Question:  why? Answer:", (" yes ", "  no"), 1).hash
    for other in (
        replace(item, gold=0),
        replace(item, context="Question: Why?\nAnswer:"),
        replace(item, choices=(" no", " yes")),
        replace(item, choices=(" yes no",)),
    ):
        assert other.hash != item.hash


def test_fingerprints_do_not_depend_on_the_order():
    one, two = Item("a", (" b", " c"), 0), Item("d", (" e", " f"), 1)
    sets = RowSets([one, two], [one], [two], [], {}, {})
    assert sets.fingerprints() == RowSets([two, one], [one], [two], [], {}, {}).fingerprints()
    assert sets.fingerprints() != RowSets([two], [one], [two], [one], {}, {}).fingerprints()
    assert list(sets.fingerprints()) == list(SETS)


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


# ---- reading files ------------------------------------------------------------------------------


def test_blank_lines_and_a_byte_order_mark_are_read_over(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\xc3\xa9\xe2\x80\xa8"}\r\n\n  \n{"text": "b"}')
    rows = read_jsonl(path)
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
        read_jsonl(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"^no file .*train.jsonl$"):
        read_jsonl(tmp_path / "train.jsonl")
    with pytest.raises(InputError, match=r"is a folder, where a .jsonl file should be$"):
        read_jsonl(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"^cannot read .*: Permission denied$"):
        read_jsonl(tmp_path / "train.jsonl")


def test_the_root_must_be_a_folder(tmp_path: Path):
    task = load_task("jsonl")
    with pytest.raises(InputError, match="is no folder; it must be the folder with"):
        read_row_sets(task, tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file; it must be the folder with"):
        read_row_sets(task, write_rows(tmp_path / "train.jsonl", [{}]))
    with pytest.raises(InputError, match=r"^no file .*test.jsonl$"):
        read_row_sets(task, tmp_path)
    with pytest.raises(InputError, match=r"give their folder, data.root"):
        read_row_sets(task, None)


def test_a_root_may_hold_several_tasks(tmp_path: Path):
    task = load_task("sciq")
    nested = read_row_sets(task, _files(tmp_path / "many" / "sciq", task).parent, None, 5, 5)
    assert nested == read_row_sets(task, _files(tmp_path / "one", task), None, 5, 5)


# ---- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the hub by functions."""

    def replace_hub(dataset_info: Callable[..., Any], load_dataset: Callable[..., Any]) -> None:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
        monkeypatch.setattr("datasets.load_dataset", load_dataset)

    return replace_hub


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("Name or service not known\nretrying")


def test_rows_come_from_the_hub(tmp_path: Path, hub: Callable[..., None]):
    from datasets import Dataset

    task = load_task("piqa")
    root = _files(tmp_path, task)
    hub(
        lambda *_, **__: None,
        lambda name, config, split: Dataset.from_list(_rows(root / f"{split}.jsonl")),
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
    root = _files(tmp_path, task)
    hub(_unreachable, lambda name, config, split: Dataset.from_list(_rows(root / f"{split}.jsonl")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert _sizes(read_row_sets(task, None, None, 5, 5)) == [40, 5, 5, 40]


def test_a_data_set_with_code_of_its_own_is_read_as_the_hub_converted_it(
    tmp_path: Path, hub: Callable[..., None]
):
    from datasets import Dataset

    task = load_task("casehold")
    root = _files(tmp_path, task)
    asked = set()

    def load_dataset(name: str, config: str, split: str, revision: str | None = None) -> Dataset:
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found lex_glue.py")
        asked.add((name, config, revision))
        return Dataset.from_list(_rows(root / f"{split}.jsonl"))

    hub(lambda *_, **__: None, load_dataset)
    assert read_row_sets(task, None, None, 5, 5) == read_row_sets(task, root, None, 5, 5)
    assert asked == {("coastalcph/lex_glue", "case_hold", "refs/convert/parquet")}


# ---- the four row sets --------------------------------------------------------------------------


class _Memory(Task):
    """Questions from memory, told apart by their number."""

    licence = "none"

    def __init__(self, **splits: list[int]):
        self.numbers = splits

    def rows(self, split: str, root: Path | None) -> list[Row]:
        return [Row({"q": f"q{n}"}, f"{split}:{i}") for i, n in enumerate(self.numbers[split], 1)]

    def item(self, row: Row, prompt: str) -> Item:
        return Item(row.text("q"), (" yes", " no"), 0)


class _OnePool(_Memory):
    splits = ("train", "train", "test")


class _Own(_Memory):
    own_rows = True


def _contexts(items: list[Item]) -> list[str]:
    return [item.context for item in items]


numbers = st.lists(st.integers(0, 80), min_size=30, max_size=80)
sizes = st.integers(0, 5)


@given(train=numbers, held=numbers, test=numbers, c=sizes, d=sizes, seed=st.integers(0, 3))
@pytest.mark.parametrize("kind", [_Memory, _OnePool])
def test_no_row_stands_in_two_sets(
    kind: type[_Memory],
    train: list[int],
    held: list[int],
    test: list[int],
    c: int,
    d: int,
    seed: int,
):
    # enough rows of each split that stand nowhere else
    held, train = [*held, *range(100, 120)], [*train, *range(200, 220)]
    task = kind(train=train, validation=held, test=test)
    sets = read_row_sets(task, None, None, c, d, None, seed)
    parts = [set(_contexts(getattr(sets, name))) for name in SETS]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert len(sets.calibration) == c and len(sets.dev) == d
    assert sorted(_contexts(sets.test)) == sorted(f"q{n}" for n in test)
    if kind is _OnePool:
        assert sum(_sizes(sets)[:3]) + sets.dropped["train"] == len(train)
    else:
        assert len(sets.train) + sets.dropped["train"] == len(train)
        nearer = set(test) | set(held)
        assert sets.dropped["train"] == sum(n in nearer for n in train)


@given(
    st.permutations(range(60)),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(1, 20),
    st.integers(1, 20),
)
@pytest.mark.parametrize("kind", [_Memory, _OnePool])
def test_larger_sets_contain_smaller_ones(
    kind: type[_Memory], order: list[int], dev: int, more: int, train: int, test: int
):
    split = {"train": order, "validation": [n + 60 for n in order], "test": range(200, 230)}
    task = kind(**{name: list(rows) for name, rows in split.items()})
    whole = read_row_sets(task, None, None, 5, dev, None)
    part = read_row_sets(task, None, train, 5, dev + more, test)
    assert part.calibration == whole.calibration
    assert part.dev[:dev] == whole.dev
    assert part.test == whole.test[:test] == read_test_items(task, None, test)
    assert part.read == {name: len(split[name]) for name in task.splits}
    assert part.counts() == {name: len(getattr(part, name)) for name in SETS}
    assert part.train == [item for item in whole.train if item not in part.dev][:train]
    # nor does the order of the file decide anything
    task.numbers["train"] = sorted(task.numbers["train"])
    assert read_row_sets(task, None, None, 5, dev, None) == whole


def test_the_seed_chooses_other_rows():
    task = _Memory(train=[*range(50)], validation=[*range(50, 100)], test=[*range(100, 150)])
    one, two = (read_row_sets(task, None, 20, 10, 10, 20, seed) for seed in (0, 1))
    for name in ("train", "calibration", "dev"):
        assert set(_hashes(getattr(one, name))) != set(_hashes(getattr(two, name)))
    # the test items stay: what several seeds answer is compared item by item
    assert one.test == two.test


def test_too_few_rows_name_the_options_to_lower():
    task = _Memory(train=[1], validation=[*range(10, 30), 2], test=[2])
    assert _sizes(read_row_sets(task, None, None, 10, 10)) == [1, 10, 10, 1]
    message = (
        "validation has 20 usable rows, too few for 11 calibration and 10 dev rows; "
        "lower data.calibration_rows or data.dev_rows"
    )
    with pytest.raises(InputError, match=message):
        read_row_sets(task, None, None, 11, 10)
    pool = _OnePool(train=[*range(20)], test=[30])
    assert _sizes(read_row_sets(pool, None, None, 10, 9)) == [1, 10, 9, 1]
    with pytest.raises(InputError, match="10 calibration and 10 dev rows and training; lower"):
        read_row_sets(pool, None, None, 10, 10)


def test_train_rows_that_all_stand_elsewhere_are_no_train_set():
    with pytest.raises(InputError, match="every train row also stands elsewhere"):
        read_row_sets(_Memory(train=[1, 2], validation=[1, 3, 4], test=[2]), None, None, 1, 1)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train": [1, 2, 3], "validation": [4, 5, 6], "test": [7, 2]},
            r"^train:2 is the same row as test:2; no row may stand in two row sets",
        ),
        (
            {"train": [1, 2, 3], "validation": [4, 3, 1], "test": [7]},
            r"^train:1 is the same row as validation:3 \(and 1 more pairs\); ",
        ),
        (
            {"train": [1], "validation": [4, 5, 6], "test": [5]},
            "^validation:2 is the same row as test:1;",
        ),
        (
            {"train": [1], "validation": [4, 5, 4], "test": [7]},
            "^validation:3 is the same row as validation:1;",
        ),
    ],
)
def test_rows_of_ones_own_in_two_sets_are_refused(splits: dict[str, list[int]], message: str):
    with pytest.raises(InputError, match=message):
        read_row_sets(_Own(**splits), None, None, 1, 1)


def test_a_row_with_its_choices_in_another_order_is_the_same_row(tmp_path: Path):
    task = load_task("jsonl")
    row = {"question": "Which  colour?", "choices": ["red", "Blue"], "answer": 0}
    same = {"question": "which colour?", "choices": ["blue", "red"], "answer": 1}
    other = {"question": "which colour?", "choices": ["blue", "green"], "answer": 1}
    root = _files(tmp_path, task, test=[other, row])
    assert _sizes(read_row_sets(task, root, None, 5, 5)) == [40, 5, 5, 2]
    root = _files(tmp_path, task, test=[other, row], train=[same])
    with pytest.raises(InputError, match=r"train.jsonl:1 is the same row as .*test.jsonl:2"):
        read_row_sets(task, root, None, 5, 5)


# ---- every task ---------------------------------------------------------------------------------


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
    root = _files(tmp_path, mixture)
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
    assert "Source:" in task.doc and task.licence
    assert task.metric in ("accuracy", "exp_neg_loss")
    assert task.prompts[0] == "authors"
    assert all(0 < value < 100 for value in (task.paper or {}).values())


@pytest.mark.parametrize("name", plugin_names(TASKS))
def test_a_task_makes_four_row_sets(name: str, tmp_path: Path):
    task = load_task(name)
    root = _files(tmp_path, task) if _parts(task, "test") else None
    for prompt in task.prompts:
        sets = read_row_sets(task, root, 10, 4, 3, 20, prompt=prompt)
        assert _sizes(sets) == [10, 4, 3, 20]
        for item in _all(sets):
            assert item.context == item.context.rstrip()
            assert 0 <= item.gold < len(item.choices)
            if task.metric == "accuracy":
                free_form = any(part.free_form for part in task.parts(task.splits[0]))
                assert len(item.choices) > 1 or (free_form and item in sets.train)
                assert all(choice.startswith(" ") for choice in item.choices)
            else:
                assert item.context == "" and len(item.choices) == 1
        assert read_row_sets(task, root, 10, 4, 3, 20, prompt=prompt) == sets
        assert read_test_items(task, root, 20, prompt=prompt) == sets.test
    with pytest.raises(InputError, match=f"task {name} has no prompt 'other'; there is authors"):
        read_row_sets(task, root, prompt="other")


def _read_columns() -> dict[str, tuple[str, str, str, str]]:
    """Every column that a row cannot do without: of each kind of part, once."""
    can_do_without = {"medmcqa choice_type", "jsonl context"}
    columns = {}
    for name in plugin_names(TASKS):
        task = load_task(name)
        for split in (task.splits[2], *_splits(task)):
            for part in _parts(task, split):
                for column in part.example or {}:
                    if f"{name} {column}" not in can_do_without:
                        key = f"{name}-{type(part).__name__}-{column}"
                        columns.setdefault(key, (name, split, part.name, column))
    return columns


@pytest.mark.parametrize(
    ("name", "split", "part_name", "column"), _read_columns().values(), ids=_read_columns()
)
def test_a_missing_column_is_refused(
    name: str, split: str, part_name: str, column: str, tmp_path: Path
):
    task = load_task(name)
    (part,) = (part for part in task.parts(split) if part.name == part_name)
    good = part.example
    assert good is not None
    without = {column, "context"} if name == "jsonl" else {column}
    row = {key: value for key, value in good.items() if key not in without}
    path = _file(_files(tmp_path, task), task, part, split)
    write_rows(path, [good, row])
    with pytest.raises(InputError, match=rf"{split}.jsonl:2: ") as caught:
        read_row_sets(task, tmp_path, None, 5, 5)
    assert str(path) in str(caught.value) and column in str(caught.value)
    assert all(found in str(caught.value) for found in row)


@pytest.mark.parametrize("name", [n for n in plugin_names(TASKS) if len(load_task(n).prompts) > 1])
def test_every_prompt_has_the_same_rows(name: str, tmp_path: Path):
    task = load_task(name)
    root = _files(tmp_path, task)
    one, two = (read_row_sets(task, root, 9, 4, 3, 9, prompt=prompt) for prompt in task.prompts)
    assert [item.gold for item in _all(one)] == [item.gold for item in _all(two)]
    assert one.test != two.test


def test_prompts_ask_the_same_rows(tmp_path: Path):
    task = load_task("medmcqa")
    root = _files(tmp_path, task)
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


# ---- single tasks -------------------------------------------------------------------------------


def _item(name: str, **columns: Any) -> Item:
    """The item of a task's example, or of the example with other columns."""
    task = load_task(name)
    return task.item(Row({**(task.example or {}), **columns}, "rows.jsonl:1"), "authors")


def test_sciq_is_asked_as_in_the_harness():
    item = _item("sciq", support="  A passage. ")
    assert item.context == "A passage. \nQuestion: What do plants take in from the air?\nAnswer:"
    assert item.choices == (" helium", " gold", " salt", " carbon dioxide") and item.gold == 3
    assert _item("sciq", support="").context.startswith("\nQuestion: ")


def test_piqa_keeps_the_solutions_as_they_are():
    item = _item("piqa", sol2="put ice in it ", label=1)
    assert item.context == "Question: To keep soup warm,\nAnswer:"
    assert item.choices == (" put a lid on it.", " put ice in it ") and item.gold == 1


def test_casehold_is_the_passage_and_its_holdings():
    item = _item("casehold", context="See Doe (<HOLDING>). ", label=2)
    assert item.context == "See Doe (<HOLDING>)."
    assert item.choices[2] == " holding that hearsay is not evidence" and item.gold == 2


def test_a_casehold_sample_is_dealt_to_the_splits(tmp_path: Path):
    task = load_task("casehold")
    sample = numbered_rows(task, 100)
    write_rows(tmp_path / "test.jsonl", sample)
    splits = [[row.text("context") for row in task.rows(s, tmp_path)] for s in _splits(task)]
    assert sorted(context for split in splits for context in split) == sorted(
        row["context"] for row in sample
    )
    assert all(len(split) > 10 for split in splits)
    write_rows(tmp_path / "test.jsonl", sample[:50])  # a row's place depends on nothing else
    for split, before in zip(_splits(task), splits, strict=True):
        assert {row.text("context") for row in task.rows(split, tmp_path)} <= set(before)
    write_rows(tmp_path / "train.jsonl", sample[50:])  # no sample any more
    assert len(task.rows("test", tmp_path)) == 50
    with pytest.raises(InputError, match=r"^no file .*validation.jsonl$"):
        task.rows("validation", tmp_path)


def test_pubmedqa_refuses_another_answer():
    with pytest.raises(InputError, match="'final_decision' must be one of yes, no, maybe, not "):
        _item("pubmedqa", final_decision="perhaps")


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
    assert _sizes(read_row_sets(task, None, None, 5, 5)) == [40, 5, 5, 50]


@pytest.mark.parametrize("name", ["mmlu_law", "financeqa"])
def test_mmlu_wants_four_options(name: str, tmp_path: Path):
    task = load_task(name)
    part = task.parts("test")[0]
    row = {**(part.example or {}), "choices": ["up", "down"]}
    path = write_rows(_file(_files(tmp_path, task), task, part, "test"), [row])
    with pytest.raises(InputError, match=f"{path}:1: 'choices' must be 4 texts"):
        read_test_items(task, tmp_path)


def test_lexglue_trains_on_casehold_and_is_evaluated_on_law(tmp_path: Path):
    task = load_task("lexglue")
    sets = read_row_sets(task, _files(tmp_path, task), None, 5, 5, prompt="harness")
    assert {len(item.choices) for item in sets.train + sets.calibration + sets.dev} == {5}
    assert {item.choices for item in sets.test} == {(" A", " B", " C", " D")}
    topics = Counter(item.context.splitlines()[0].partition("about ")[2] for item in sets.test)
    assert topics == {"professional law.": 40, "international law.": 40, "jurisprudence.": 40}


def test_financeqa_learns_free_form_answers_and_scores_choices(tmp_path: Path):
    task = load_task("financeqa")
    root = _files(tmp_path, task)
    alpaca = tmp_path / "alpaca" / "train.jsonl"
    rows = [
        {"instruction": "Say what a bond is.", "input": "", "output": " A loan. "},
        {"instruction": "Add up.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say nothing.", "input": "", "output": " \n"},
    ]
    write_rows(alpaca, rows)
    sets = read_row_sets(task, root, None, 40, 30)
    assert sets.dropped == {"train": 1, "test": 0}
    assert _sizes(sets) == [40 + 40 - 70 + 2, 40, 30, 120]
    free_form = {item.context: item.choices for item in sets.train if len(item.choices) == 1}
    assert free_form == {
        "Question: Say what a bond is.\nAnswer:": (" A loan.",),
        "1 and 2\nQuestion: Add up.\nAnswer:": (" 3",),
    }
    assert all(len(item.choices) == 3 for item in sets.calibration + sets.dev)
    # with free-form rows to train on, every other row may be held out
    assert _sizes(read_row_sets(task, root, None, 40, 40))[0] == 2
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
    root = _files(tmp_path, task, validation=[twice])
    assert len(read_row_sets(task, root, None, 5, 5).test) == 1


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
    item = _item("jsonl", **columns, choices=["blue", " green"], answer=1)
    assert item == Item(context, (" blue", " green"), 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"choices": ["one"]}, "1 choices; a question needs two or more"),
        ({"choices": []}, "0 choices; a question needs two or more"),
        ({"choices": ["one", " "]}, "an empty choice"),
        ({"choices": ["one", "One "]}, "two of the choices are the same"),
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
        root = _files(tmp_path, task, **{split: [good, {**good, **columns}]})
        with pytest.raises(InputError, match=rf"{split}.jsonl:2: {message}") as caught:
            read_row_sets(task, root, None, 5, 5)
        assert "\n" not in str(caught.value)


def test_an_empty_text_is_refused(tmp_path: Path):
    task = load_task("text")
    root = _files(tmp_path, task, train=[{"text": "a"}, {"text": " \n"}])
    with pytest.raises(InputError, match=r"train.jsonl:2: an empty choice or text"):
        read_row_sets(task, root, None, 5, 5)


# ---- ICD-10-CM ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def icd() -> RowSets:
    return read_row_sets(load_task("icd10cm"), None, None, 100, 250)


def test_icd_has_enough_questions(icd: RowSets):
    assert len(icd.train) >= 1000 and len(icd.test) >= 450
    assert sum(icd.dropped.values()) == 0


def test_icd_choices_are_four_short_different_titles(icd: RowSets):
    for item in _all(icd):
        assert len({choice.casefold() for choice in item.choices}) == 4
        assert all(len(choice) <= 33 and len(choice.split()) <= 4 for choice in item.choices)
        assert item.context.startswith("Question: Which category covers ")


def test_icd_no_choice_of_a_test_question_was_an_answer_in_training(icd: RowSets):
    answers = {item.choices[item.gold].casefold() for item in icd.train}
    for item in (*icd.test, *icd.dev, *icd.calibration):
        assert not answers & {choice.casefold() for choice in item.choices}


def test_icd_no_answer_rules(icd: RowSets):
    for name in ("train", "test"):
        items = getattr(icd, name)
        assert max(Counter(item.choices[item.gold] for item in items).values()) < len(items) / 30


def _grams(text: str, n: int = 3) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def _shared_grams(item: Item, choice: str) -> float:
    question = _grams(item.context.casefold().removeprefix("question: which category covers "))
    return len(question & _grams(choice.casefold())) / len(choice)


def test_icd_is_not_answered_by_its_form(icd: RowSets):
    chance, near = 25, 3
    assert abs(word_overlap_accuracy(icd.test) - chance) <= near
    assert abs(word_overlap_accuracy(icd.train) - chance) <= near
    assert abs(majority_accuracy(icd.train, icd.test) - chance) <= near

    def accuracy(score: Callable[[Item, str], float]) -> float:
        def best(item: Item) -> int:
            return max(range(4), key=lambda i: score(item, item.choices[i]))

        return 100 * sum(best(item) == item.gold for item in icd.test) / len(icd.test)

    assert abs(accuracy(lambda _, choice: len(choice)) - chance) <= 2 * near
    assert abs(accuracy(lambda _, choice: -len(choice)) - chance) <= 2 * near
    assert abs(accuracy(_shared_grams) - chance) <= 4 * near


def test_icd_is_the_same_in_every_process(icd: RowSets):
    code = (
        "from trimlab.data.splits import read_row_sets; from trimlab.data.task import load_task; "
        "print(read_row_sets(load_task('icd10cm'), None, None, 100, 250).fingerprints())"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(icd.fingerprints())


def test_icd_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    from trimlab.data.tasks import icd10cm

    monkeypatch.setitem(sys.modules, "simple_icd_10_cm", None)
    with pytest.raises(InputError, match=r"pip install 'trimlab\[embedded\]'"):
        icd10cm._package()


# ---- the real rows ------------------------------------------------------------------------------

DATA = Path(os.environ.get("TRIMLAB_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark rows in {DATA}")
@pytest.mark.parametrize(
    ("name", "sizes", "dropped"),
    [
        ("sciq", [11679, 50, 100, 1000], 0),
        ("piqa", [16113 - 150 - 8, 50, 100, 1838], 8),
        ("medmcqa", [5443 - 150, 50, 100, 4183], 0),
        ("casehold", [588, 50, 100, 192], 0),
        ("pubmedqa", [500 - 150, 50, 100, 500], 0),
        ("legalbench", [177 - 150, 50, 100, 15429], 0),
        ("lexglue", [588, 50, 100, 1763], 0),
        # 4 empty answers and 34 repeated rows
        ("financeqa", [750 + 4846 + 9229 - 150 - 38, 50, 100, 742], 38),
        ("mmlu_law", [194 - 150, 50, 100, 1763], 0),
        ("mmlu_economics", [81 - 50, 20, 30, 742], 0),
    ],
)
def test_real_rows(name: str, sizes: list[int], dropped: int):
    task = load_task(name)
    for prompt in task.prompts:
        sets = read_row_sets(task, DATA, None, sizes[1], sizes[2], prompt=prompt)
        assert _sizes(sets) == sizes
        assert sum(sets.dropped.values()) == dropped

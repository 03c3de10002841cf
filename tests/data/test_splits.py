"""The four row sets of a task."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import DATA
from tests.data.examples import sizes_of, write_files
from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.source import DataSource
from trimlab.data.splits import SETS, read_row_sets, read_test_items
from trimlab.data.task import TASKS, Layout, Task, load_task
from trimlab.errors import InputError
from trimlab.plugins import plugin_names


class _Memory(Task):
    """Questions from memory, told apart by their number."""

    licence = "none"

    def __init__(self, **splits: list[int]):
        self.numbers = splits

    def rows(self, split: str, source: DataSource) -> list[Row]:
        return [Row({"q": f"q{n}"}, f"{split}:{i}") for i, n in enumerate(self.numbers[split], 1)]

    def item(self, row: Row, prompt: str) -> Item:
        return Item(row.text("q"), (" yes", " no"), 0)


class _OnePool(_Memory):
    splits = ("train", "train", "test")


class _Own(_Memory):
    own_rows = True

    def layout(self, source: DataSource, needed: Sequence[str] = ()) -> Layout:
        return {split: split for split in self.numbers}


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
        assert sum(sizes_of(sets)[:3]) + sets.dropped["train"] == len(train)
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
        assert set(getattr(one, name)) != set(getattr(two, name))
    # the test items stay: what several seeds answer is compared item by item
    assert one.test == two.test


def test_too_few_rows_name_the_options_to_lower():
    task = _Memory(train=[1], validation=[*range(10, 30), 2], test=[2])
    assert sizes_of(read_row_sets(task, None, None, 10, 10)) == [1, 10, 10, 1]
    message = (
        "validation has 20 usable rows, too few for 11 calibration and 10 dev rows; "
        "lower data.calibration_rows or data.dev_rows"
    )
    with pytest.raises(InputError, match=message):
        read_row_sets(task, None, None, 11, 10)
    pool = _OnePool(train=[*range(20)], test=[30])
    assert sizes_of(read_row_sets(pool, None, None, 10, 9)) == [1, 10, 9, 1]
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
            r"^2 faulty rows: train:1 is the same row as validation:3; .* train:3 is the same row",
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
    same = {"question": "Which colour? ", "choices": ["Blue", "red"], "answer": 1}
    other = {"question": "Which colour?", "choices": ["Blue", "green"], "answer": 1}
    root = write_files(tmp_path, task, test=[other, row])
    assert sizes_of(read_row_sets(task, root, None, 5, 5)) == [40, 5, 5, 2]
    root = write_files(tmp_path, task, test=[other, row], train=[same])
    with pytest.raises(InputError, match=r"train.jsonl:1 is the same row as .*test.jsonl:2"):
        read_row_sets(task, root, None, 5, 5)


# ---- the real rows ------------------------------------------------------------------------------

RECORDED = json.loads((Path(__file__).parent / "real_row_sets.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark rows in {DATA}")
@pytest.mark.parametrize("name", plugin_names(TASKS))
def test_the_row_sets_of_the_real_rows_are_those_on_record(name: str):
    """Sizes, rows dropped and fingerprints; recorded results are of these items."""
    if name not in RECORDED:
        pytest.skip(f"no row sets of {name} on record")
    task, recorded = load_task(name), RECORDED[name]
    calibration, dev = (recorded["sizes"][place] for place in ("calibration", "dev"))
    for prompt in task.prompts:
        sets = read_row_sets(task, DATA, None, calibration, dev, prompt=prompt)
        assert sets.counts() == recorded["sizes"]
        assert sets.dropped == recorded["dropped"]
        assert sets.fingerprints() == recorded["fingerprints"][prompt]

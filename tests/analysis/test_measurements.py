"""Means, standard errors and paired tests against numbers computed by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.measurements import (
    Measurement,
    final_memory,
    mean_and_stderr,
    measure,
    other_overrides,
    paired_test,
    scorer_of,
    sign_test,
    update_ratio_of,
)
from trimlab.records.result_row import ResultRow
from trimlab.records.results import Record, Records, read_results

RECORDS = read_results(Path(__file__).parent.parent / "golden" / "records").where(limit=None)


def two_step(model: str, r: float = 0.25) -> Records:
    found = RECORDS.of("table3").where(kind="test", model=model, task="sciq")
    return Records(tuple(x for x in found if (scorer_of(x), update_ratio_of(x)) == ("two_step", r)))


def changed(record: Record, **fields: object) -> Record:
    return replace(record, result=ResultRow.from_row(record.row | fields))


def test_mean_and_stderr() -> None:
    # deviations -2, 0, 2: variance 8 / 2 = 4, and 2 / sqrt(3)
    assert mean_and_stderr([1, 3, 5]) == (3, pytest.approx(2 / math.sqrt(3)))
    assert mean_and_stderr([7]) == (7, None)


def test_over_seeds_and_items() -> None:
    measured = measure(two_step("trimmed"))
    assert measured is not None
    # 14 and 13 of 20 right, the first 14 and 13 items: 70 and 65 %
    assert measured.mean == pytest.approx(67.5)
    # over the seeds: deviations of 2.5, variance 12.5, sqrt(12.5 / 2)
    assert measured.stderr_seeds == pytest.approx(2.5)
    # over the items: thirteen of 100, one of 50, six of 0; mean 67.5
    squares = 13 * 32.5**2 + 17.5**2 + 6 * 67.5**2
    items = math.sqrt(squares / 19 / 20)
    assert measured.stderr_items == pytest.approx(items)
    assert measured.stderr == pytest.approx(math.sqrt(items**2 + 2.5**2))
    assert [record["seed"] for record in measured.records] == [0, 1]
    assert measured.extra_metrics == pytest.approx(
        {"value_normalised": 66.5, "stability": 0.9, "tokens_per_second": 15.5}
    )


def test_one_seed_has_the_records_own_standard_error() -> None:
    (record, _) = two_step("trimmed")
    measured = measure([record])
    assert measured is not None
    assert measured.stderr == pytest.approx(record["stderr"])
    assert measured.stderr_seeds is None


def test_without_the_items_answers() -> None:
    records = [changed(r, correct=None, stderr=s) for r, s in zip(two_step("trimmed"), (3, 4))]  # noqa: B905
    measured = measure(records)
    assert measured is not None
    assert measured.stderr_items == pytest.approx(math.sqrt((9 + 16) / 2))


def test_seeds_on_different_items_are_not_lined_up() -> None:
    first, second = two_step("trimmed")
    other = changed(second, row_sets={**second["row_sets"], "test": "other rows"})
    measured = measure([first, other], references=RECORDS.of("table3"))
    assert measured is not None and measured.test is None
    squares = [record["stderr"] ** 2 for record in (first, other)]
    assert measured.stderr_items == pytest.approx(math.sqrt(sum(squares) / 2))


def test_the_mean_of_a_function() -> None:
    measured = measure(two_step("trimmed"), lambda record: record["seed"] / 2)
    assert measured is not None
    assert (measured.mean, measured.stderr_items) == (0.25, None)


def test_only_options_that_change_the_model_are_named() -> None:
    record = two_step("trimmed").records[0]
    # options of every version, old names and new ones
    measured_only = {"run.further": True, "run.extra_metrics": True, "run.eval_tasks": ["piqa"]}
    measured_only |= {"run.also_on": ["piqa"], "run.compare": ["awq"], "trim.save_at": [0.75]}
    assert other_overrides(changed(record, cell=record["cell"] | measured_only)) == ""
    told = record["cell"] | measured_only | {"trim.packable": True, "model.lr": 1e-4}
    assert other_overrides(changed(record, cell=told)) == ", packable True, lr 0.0001"


def test_nothing_measured() -> None:
    assert measure([]) is None


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (0, 5, 0.0625),  # 2 / 32
        (1, 9, 22 / 1024),  # 2 (1 + 10) / 1024
        (9, 1, 22 / 1024),
        (4, 4, 1.0),
        (3, 5, 2 * (1 + 8 + 28 + 56) / 256),
    ],
)
def test_sign_test(won: int, lost: int, p: float) -> None:
    assert sign_test(won, lost) == pytest.approx(p)


def test_mcnemar_against_full_fine_tuning() -> None:
    first = two_step("trimmed").records[:1]
    test = paired_test(first, RECORDS.of("table3"))
    assert test is not None
    # items 0-13 right, and 0-17 for full fine-tuning: four lost, p = 2 / 16
    assert (test.won, test.lost, test.p, test.against) == (0, 4, 0.125, "full fine-tuning")


def test_several_seeds_count_an_item_once() -> None:
    test = paired_test(two_step("trimmed").records, RECORDS.of("table3"))
    assert test is not None
    # seed 0 loses the items 14-17, seed 1 the items 13-16: five items, not eight
    assert (test.won, test.lost, test.p) == (0, 5, 0.0625)


def test_the_runs_own_full_depth_stands_in() -> None:
    trimmed = two_step("trimmed").records[:1]
    test = paired_test(trimmed, two_step("fine_tuned"))
    assert test is not None
    # items 0-13 against 1-17
    assert (test.won, test.lost, test.against) == (1, 4, "sparse fine-tuning")


@pytest.mark.parametrize(
    "different",
    [
        {"optimizer_steps": 99},
        {"row_sets": {"test": "other rows"}},
        {"correct": None},
        {"evaluated_on": "piqa"},
        {"seed": 7},
    ],
)
def test_no_test_without_a_fair_reference(different: dict[str, object]) -> None:
    trimmed = tuple(changed(r, **different) for r in two_step("trimmed"))
    assert paired_test(trimmed, RECORDS.of("table3")) is None


def test_full_fine_tuning_is_not_tested_against_itself() -> None:
    assert paired_test(two_step("fine_tuned", r=1).records, RECORDS.of("table3")) is None


def test_final_memory() -> None:
    points = RECORDS.of("table3").where(kind="operating_point", seed=0)
    # dev 80, 78, 76, 73, 66 and 90 % of 80 is 72: the fourth holds, with 7 of 12 parts left
    assert final_memory(points) == pytest.approx(7 / 12)
    # dev 80, 78, 70: the second is the last that holds, although the fourth is better again
    points = RECORDS.of("table3").where(kind="operating_point", seed=1)
    assert final_memory(points) == pytest.approx(10 / 12)
    assert final_memory(points.records[1:]) is None
    assert final_memory([]) is None


def test_dirty() -> None:
    record = two_step("trimmed").records[0]
    dirty = changed(record, git_commit="abc-dirty")
    assert not Measurement(1, records=(record,)).dirty
    assert Measurement(1, records=(record, dirty)).dirty

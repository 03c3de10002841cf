"""Scores worked by hand, and what every scorer file promises."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import TinyModel, TinyTokenizer
from trimlab.data.batching import scan_batches
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names
from trimlab.scanning.candidates import Candidate
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import Scores, ranking
from trimlab.scanning.statistics import STATISTICS
from trimlab.scorers import SCORERS, Scorer, load_scorer
from trimlab.scorers._scoring import score_candidates
from trimlab.scorers.activation_norm import s_norm
from trimlab.scorers.sensitivity import s_scan


def blocks(count: int) -> list[Candidate]:
    return [(Sublayer(b, "attention"), Sublayer(b, "mlp")) for b in range(count)]


def scan_of(
    accuracy: list[float], norm: list[float], similarity: list[float] | None = None, step: int = 0
) -> Scan:
    found = blocks(len(accuracy))
    statistics = {"accuracy": accuracy, "norm": norm, "similarity": similarity or []}
    return Scan(found, statistics, n_blocks=len(found), step=step)


class Backwards(Scorer):
    """A user's own scorer, found by its dotted path."""

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def __call__(self, scan: Scan) -> Scores:
        return [(-self.factor * index,) for index, _ in enumerate(scan.candidates)]


# ---- every file ------------------------------------------------------------------------------

SIX = Scan(
    candidates=blocks(6),
    # of every statistic that there is; numbers that any of them could have
    statistics={name: [0.9, 0.7, 0.9, 0.0, 1.0, 0.5] for name in plugin_names(STATISTICS)}
    | {
        "accuracy": [90.0, 70.0, 90.0, 0.0, 100.0, 50.0],
        "norm": [3.0, 8.0, 5.0, 2.0, 2.5, 40.0],
        "similarity": [0.9, 0.8, 0.99, -0.1, 0.5, 0.7],
    },
    n_blocks=6,
    step=2,
)


@pytest.mark.parametrize("name", plugin_names(SCORERS))
def test_every_scorer_scores_every_candidate_and_changes_nothing(name: str) -> None:
    scorer, before = load_scorer(name), copy.deepcopy(SIX)
    scores = scorer(SIX)
    assert len(scores) == 6 and all(isinstance(score, tuple) for score in scores)
    assert len({len(score) for score in scores}) == 1
    assert all(math.isfinite(part) for score in scores for part in score)
    assert scorer(SIX) == scores == load_scorer(name)(SIX)
    assert before == SIX
    assert scorer.statistics <= set(plugin_names(STATISTICS))
    # it names every statistic that it reads
    asked = {name: SIX.statistics[name] for name in scorer.statistics}
    assert scorer(replace(SIX, statistics=asked)) == scores
    # and a single candidate is scored as well
    alone = {name: values[1:2] for name, values in asked.items()}
    assert len(scorer(Scan(SIX.candidates[1:2], alone, n_blocks=6))) == 1


def test_the_scorers_of_the_paper_and_its_rules_are_there() -> None:
    assert set(plugin_names(SCORERS)) >= {
        "sensitivity", "activation_norm", "two_step", "block_influence", "random",
        "top", "bottom", "alternate",
    }  # fmt: skip


# ---- by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "d", "expected"),
    [
        (100, 0.01, 0.0),
        (0, 1.0, 50.0),  # 100 / 2
        (50, 1.0, 50 / 102),  # 50 / (2 + 2 * 50)
        (80, 0.5, 20 / 121.25),  # 20 / (1.25 + 1.5 * 80)
        (0, 0.01, 100 / 1.0001),
    ],
)
def test_s_scan_by_hand(a: float, d: float, expected: float) -> None:
    assert s_scan(a, d) == pytest.approx(expected, rel=1e-14)


@given(a=st.floats(0, 100), b=st.floats(0, 100), d=st.floats(1e-6, 1))
def test_s_scan_falls_as_accuracy_rises(a: float, b: float, d: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= s_scan(high, d) <= s_scan(low, d) <= 100


def test_s_norm_by_hand() -> None:
    assert s_norm([4.0, 2.0, 10.0]) == pytest.approx([50.0, 100.0, 20.0])
    assert s_norm([0.0, 0.0]) == [100.0, 100.0]
    assert s_norm([]) == []


def test_sensitivity_and_activation_norm_by_hand() -> None:
    scan = scan_of([60, 90, 80], [1.0, 2.0, 7.0])
    assert ranking(load_scorer("sensitivity")(scan)) == [1, 2, 0]
    assert ranking(load_scorer("activation_norm")(scan)) == [2, 1, 0]
    halves = load_scorer("sensitivity", d=1.0)(scan)
    assert halves == [(pytest.approx(40 / 122),), (pytest.approx(10 / 182),), (20 / 162,)]


def test_two_step_breaks_ties_by_the_larger_norm() -> None:
    scan = scan_of([80, 90, 70, 90, 90], [50.0, 4.0, 60.0, 8.0, 2.0])
    scores = load_scorer("two_step", d=1.0)(scan)
    assert scores[3] == (pytest.approx(10 / 182), pytest.approx(100 * 2 / 8))
    assert ranking(scores) == [3, 1, 4, 0, 2]


def test_equal_scores_are_dropped_in_the_order_of_execution() -> None:
    assert ranking(load_scorer("two_step")(scan_of([90, 90, 90], [3.0, 3.0, 3.0]))) == [0, 1, 2]


def test_block_influence_drops_the_candidate_that_turns_the_stream_least() -> None:
    scores = load_scorer("block_influence")(scan_of([0] * 3, [0] * 3, [0.5, 0.75, -1.0]))
    assert scores == [(0.5,), (0.25,), (2.0,)]
    assert ranking(scores) == [1, 0, 2]


@pytest.mark.parametrize(
    ("name", "count", "order"),
    [
        ("top", 6, [5, 4, 3, 2, 1, 0]),
        ("bottom", 6, [0, 1, 2, 3, 4, 5]),
        ("alternate", 6, [5, 3, 1, 4, 2, 0]),
        ("alternate", 5, [4, 2, 0, 3, 1]),
    ],
)
def test_rules_drop_whole_blocks_at_once_in_a_fixed_order(
    name: str, count: int, order: list[int]
) -> None:
    rule = load_scorer(name)
    found = blocks(count)
    assert rule.one_shot and rule.granularity == "block" and not rule.statistics
    assert ranking(rule(Scan(found, n_blocks=count))) == order
    # the first drops of the order do not change the rest of it
    kept = [c for c in found if c[0].block not in order[:2]]
    rest = ranking(rule(Scan(kept, n_blocks=count)))
    assert [kept[i][0].block for i in rest] == order[2:]


def test_random_is_decided_by_seed_and_step() -> None:
    def scores(seed: int, step: int) -> Scores:
        return load_scorer("random", seed=seed)(scan_of([0] * 8, [1] * 8, step=step))

    assert scores(1, 0) == scores(1, 0)
    assert len({tuple(scores(seed, step)) for seed in range(3) for step in range(3)}) == 9
    assert all(0 <= score < 1 for (score,) in scores(0, 0))
    # its own seed or, without one, the run's
    found = [replace(scan_of([0] * 8, [1] * 8), seed=seed) for seed in (1, 2)]
    assert [load_scorer("random")(scan) for scan in found] == [scores(1, 0), scores(2, 0)]
    assert [load_scorer("random", seed=3)(scan) for scan in found] == [scores(3, 0)] * 2
    # a control is no rule: it is scanned and trained step by step
    assert not load_scorer("random").one_shot


# ---- loading ---------------------------------------------------------------------------------


def test_a_scorer_elsewhere_is_found_by_its_dotted_path() -> None:
    scorer = load_scorer(f"{__name__}.Backwards", factor=2.0)
    assert ranking(scorer(SIX)) == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    "name",
    ["", "nonsense", "no.such.module", f"{__name__}.Missing", "trimlab.scorers.random.", "."],
)
def test_the_error_of_an_unknown_scorer_names_all_scorers(name: str) -> None:
    with pytest.raises(InputError) as error:
        load_scorer(name)
    assert all(known in str(error.value) for known in plugin_names(SCORERS))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("top", {"d": 1}), ("sensitivity", {"d": 0}), ("two_step", {"d": -1.0}), ("random", {"n": 1})],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"scorer '{name}': "):
        load_scorer(name, **arguments)


@pytest.mark.parametrize("name", ["collections.OrderedDict", "trimlab.scorers.load_scorer"])
def test_other_objects_than_scorers_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a subclass of"):
        load_scorer(name)


# ---- in a drop step --------------------------------------------------------------------------


def test_wrong_choices_are_read_only_by_scores_that_need_them(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, root: Path
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    data = DomainData(tiny_tokenizer(), "jsonl", root, calibration_rows=8, dev_rows=8)

    def scanned(scorer: str) -> Scan:
        scorer_of = load_scorer(scorer)
        return score_candidates(scorer_of, stack, data, "sublayer", metric="accuracy", step=0).scan

    data.setup()
    assert data.rows is not None
    right_alone = [
        encode(data.tokenizer, item, data.max_length, only_gold=True)
        for item in data.rows.calibration
    ]
    expected = scan(stack, scan_batches(right_alone, 1024), measures=["hidden_change"])
    assert scanned("hidden_change").statistics == expected.statistics
    whole = scan(stack, data.calibration_batches())
    assert scanned("two_step").statistics == whole.statistics

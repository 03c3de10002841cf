"""Details of single benchmarks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab.bench import _likelihoods
from trimlab.bench._epochs import evenly_spaced
from trimlab.bench._lightning import BenchmarkLM
from trimlab.bench._likelihoods import fastest_batch_size
from trimlab.bench._model import BenchmarkModel
from trimlab.bench._trainer import _arguments
from trimlab.bench.scan import evenly_chosen, items_needed
from trimlab.data.items import Item
from trimlab.model.sublayers import Sublayer
from trimlab.records.results import read_results
from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import lowest
from trimlab.scorers import load_scorer

STACK = [Sublayer(block, kind) for block in range(18) for kind in ("attention", "mlp")]


@pytest.mark.parametrize("peer", ["lm-eval", "naive"])
def test_score_compares_log_likelihoods(peer: str, tiny_run: Callable[..., Any]) -> None:
    (row,) = tiny_run("score", peer).rows
    assert row["same"]["items"] == 6
    assert row["same"]["largest_relative_difference"] < 1e-4


@pytest.mark.parametrize("peer", ["lm-eval", "naive"])
def test_scan_scales_the_peer_to_all_sublayers(peer: str, tiny_run: Callable[..., Any]) -> None:
    (row,) = tiny_run("scan", peer).rows
    assert row["peer_factor"] == 2
    assert len(row["settings"]["peer_sublayers"]) == len(row["same"]["accuracies"]) == 3


def test_scan_reports_the_items_that_the_choice_took(tiny_run: Callable[..., Any]) -> None:
    (row,) = tiny_run("scan", "all-scores").rows
    assert row["same"]["same_choice"] is True
    assert 0 < row["same"]["share_needed"] <= row["same"]["share_met"] <= 1


def test_scan_chooses_the_peer_s_sublayers_over_depth_and_kind() -> None:
    chosen = [s for (s,) in evenly_chosen([(sublayer,) for sublayer in STACK], 6)]
    assert len(set(chosen)) == 6 and chosen == sorted(chosen)
    assert {s.kind for s in chosen} == {"attention", "mlp"}
    assert chosen[0].block < 3 and chosen[-1].block > 14


def test_items_that_any_exact_scan_needs() -> None:
    found = [(Sublayer(0, "attention"),), (Sublayer(0, "mlp"),), (Sublayer(1, "mlp"),)]
    scorer = load_scorer("sensitivity")

    def needed(*accuracies: float) -> int:
        whole = Scan(found, {"accuracy": list(accuracies)}, n_blocks=2)
        return items_needed(whole, scorer, lambda scores: lowest(found, scores, 1), 4)

    # a tie goes to the first: nothing has to be known of the others
    assert needed(100, 75, 25) == needed(100, 100, 100) == 4
    # one wrong answer of the first, which would tie otherwise; the last would lose a tie
    assert needed(75, 100, 25) == 1 + 4 + 0
    # the last is chosen for one right answer; it would win a tie, so all others must fail
    assert needed(0, 0, 25) == 4 + 4 + 1


def test_growth_measures_along_every_axis(tiny_run: Callable[..., Any]) -> None:
    axes = [row["settings"]["axis"] for row in tiny_run("growth").rows]
    assert axes == ["sublayers", "sublayers", "items", "context_tokens", "r"]


def test_train_can_train_the_choice_of_a_scan(
    trimlab_bench: Callable[..., int], tiny_options: Callable[[str], list[str]], tmp_path: Path
) -> None:
    options = (*tiny_options("train"), "--out", tmp_path / "bench.jsonl")
    for trainable in ("every_nth", "scan"):
        assert trimlab_bench("train", "--trainable", trainable, *options) == 0
    evenly, chosen = read_results(tmp_path)
    assert [record["cell"].get("trainable") for record in (evenly, chosen)] == [None, "scan"]
    # other sublayers learn from the same rows
    assert evenly["same"]["ours_loss"] != chosen["same"]["ours_loss"]
    assert evenly["row_sets"] == chosen["row_sets"] != {}


def test_train_trains_evenly_spaced_sublayers() -> None:
    assert evenly_spaced(STACK, 0.25) == STACK[::4]
    assert evenly_spaced(STACK, 1) == STACK


@pytest.mark.parametrize("name", ["train", "run"])
def test_both_sides_compute_as_many_tokens_at_once(
    name: str,
    trimlab_bench: Callable[..., int],
    tiny_options: Callable[[str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    monkeypatch.setattr(BenchmarkLM, "setup", lambda self, stage: made.append(self.train_tokens))
    options = (*tiny_options(name), "--train_tokens", 48, "--out", tmp_path / "bench.jsonl")
    assert trimlab_bench(name, "--against", "own", *options) == 0
    assert made == [48, 48]


def test_the_trainer_does_nothing_that_our_side_leaves_out(base: Path, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = BenchmarkModel(str(base), device=torch.device("cpu"), dtype=dtype)
        found = _arguments(str(tmp_path), model, 4, 2)
        assert found.max_grad_norm == 0  # no clipping
        assert not found.bf16 and not found.fp16  # no casting: the weights have the type
        assert found.weight_decay == 0 and not found.gradient_checkpointing


def test_the_trial_fills_the_largest_batch_of_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def harness(_model: Any, _tokenizer: Any, items: list[Item], _size: int) -> Callable[[], None]:
        tried.append(sum(len(item.choices) for item in items))
        return lambda: None

    monkeypatch.setattr(_likelihoods, "_with_harness", harness)
    items = [Item("a", (" b", " c"), 0, where=str(number)) for number in range(200)]
    model: Any = None
    fastest_batch_size(model, model, items, (8, 128))
    assert min(tried) >= 128
    tried.clear()
    fastest_batch_size(model, model, items, (1, 16))
    assert tried == [16, 16]

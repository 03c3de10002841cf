"""Every statistic file: its values are those of the plain way, whatever a scan shares."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.scanning.test_early_stopping import items_of
from tests.tiny import TinyModel, TinyTokenizer
from trimlab.data.batching import Batch, scan_batches
from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.evaluation.likelihoods import choice_likelihoods, head_positions, model_inputs
from trimlab.evaluation.metrics import MetricName
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names
from trimlab.scanning import statistics as package
from trimlab.scanning.candidates import Candidate, candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import scan
from trimlab.scanning.statistics import (
    STATISTICS,
    BypassedPasses,
    BypassStatistic,
    OutputStatistic,
    Statistic,
    load_statistic,
)
from trimlab.scorers import load_scorer

NAMES = plugin_names(STATISTICS)


@pytest.fixture
def stack(tiny_model: TinyModel) -> SublayerStack:
    stack = SublayerStack(tiny_model("llama"))
    stack.drop(Sublayer(1, "attention"))
    return stack


@pytest.fixture
def items(tiny_tokenizer: TinyTokenizer) -> list[EncodedItem]:
    return items_of(tiny_tokenizer(), 12)


# ---- the plain way ------------------------------------------------------------------------------


def plain_hidden(stack: SublayerStack, batch: Batch) -> Tensor:
    return stack.hidden(**model_inputs(batch, stack.model.config, stack.model.dtype))


def outputs(stack: SublayerStack, batch: Batch) -> dict[Sublayer, tuple[Tensor, Tensor]]:
    """The residual stream before every sublayer, and what the sublayer adds.  # (B, T, D)"""
    before: dict[Sublayer, Tensor] = {}
    found: dict[Sublayer, tuple[Tensor, Tensor]] = {}
    handles = []
    for sublayer in stack:
        norm, core = stack.modules(sublayer)

        def keep(_module: Any, args: Any, sublayer: Sublayer = sublayer) -> None:
            before[sublayer] = args[0]

        def pair(_m: Any, _args: Any, output: Any, sublayer: Sublayer = sublayer) -> None:
            added = output[0] if isinstance(output, tuple) else output
            found[sublayer] = before[sublayer], added

        handles += [norm.register_forward_pre_hook(keep), core.register_forward_hook(pair)]
    plain_hidden(stack, batch)
    for handle in handles:
        handle.remove()
    return found


def plain_passes(stack: SublayerStack, batch: Batch, found: list[Candidate]) -> BypassedPasses:
    """Every candidate in a whole pass of its own."""
    positions, scored = head_positions(batch)
    rows = torch.arange(len(batch))[:, None]
    hidden, likelihoods = [], []
    for candidate in found:
        with stack.bypass(*candidate):
            states = plain_hidden(stack, batch)
        hidden.append(states[rows, positions])
        likelihoods.append(choice_likelihoods(stack, states, batch))
    whole = plain_hidden(stack, batch)[rows, positions]
    return BypassedPasses(stack, scored, torch.stack(hidden), whole, torch.stack(likelihoods))


@torch.inference_mode()
def plain_values(
    statistic: Statistic, stack: SublayerStack, batches: list[Batch], found: list[Candidate]
) -> list[float]:
    if isinstance(statistic, BypassStatistic):
        passes = [plain_passes(stack, batch, found) for batch in batches]
        return statistic.reduce(torch.cat([statistic.of_items(p) for p in passes], dim=-1))
    assert isinstance(statistic, OutputStatistic)
    total = 0
    for batch in batches:
        of_sublayer = outputs(stack, batch)
        sums = []
        for candidate in found:
            before = of_sublayer[candidate[0]][0]
            added = sum(of_sublayer[sublayer][1] for sublayer in candidate)
            sums.append(statistic.sums(before, added, batch.token_mask))
        total = total + torch.stack(sums)
    return statistic.reduce(torch.as_tensor(total))


# ---- every file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "exp_neg_loss", "token_accuracy"])
@pytest.mark.parametrize("granularity", ["sublayer", "pair"])
@pytest.mark.parametrize("name", NAMES)
def test_a_scan_gives_the_values_of_plain_passes(
    name: str,
    granularity: Any,
    metric: MetricName,
    stack: SublayerStack,
    items: list[EncodedItem],
) -> None:
    batches = scan_batches(items, 400)
    found = scan(stack, batches, granularity, [name], metric, max_tokens=400)
    assert list(found.statistics) == [name]
    values = found.statistics[name]
    assert len(values) == len(candidates(stack, granularity))
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    assert len(set(values)) > 1
    expected = plain_values(load_statistic(name, metric), stack, batches, found.candidates)
    assert values == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_do_not_depend_on_batches_or_on_each_other(
    name: str, stack: SublayerStack, items: list[EncodedItem]
) -> None:
    alone = scan(stack, scan_batches(items, 10_000), measures=[name]).statistics
    together = scan(stack, scan_batches(items, 100), measures=NAMES, max_tokens=100).statistics
    assert list(together) == NAMES
    assert together[name] == pytest.approx(alone[name], rel=1e-9)


def test_an_unknown_statistic_is_refused(stack: SublayerStack, items: list[EncodedItem]) -> None:
    with pytest.raises(InputError, match="no statistic 'nosuch'; there are accuracy, "):
        scan(stack, scan_batches(items, 400), measures=["nosuch"])


def test_positions_that_predict_are_masked(stack: SublayerStack, items: list[EncodedItem]) -> None:
    (batch, *_) = scan_batches(items, 10_000)
    positions, scored = head_positions(batch)
    hidden = torch.zeros(*positions.shape, 1)
    mask = BypassedPasses(stack, scored, hidden[None], hidden, None).position_mask
    for row in range(len(batch)):
        own = batch.logit_index[batch.item_index == row].unique()
        assert positions[row][mask[row]].tolist() == own.tolist()


# ---- a new file ---------------------------------------------------------------------------------

MARGIN = '''
import torch

from trimlab.scanning.statistics import BypassStatistic


class Margin(BypassStatistic):
    """Log-likelihood of the right choice over that of the best other one."""

    def of_items(self, passes):
        gold = passes.batch.gold[:, None].expand(*passes.likelihoods.shape[:-1], 1)
        right = passes.likelihoods.gather(-1, gold).squeeze(-1)
        others = passes.likelihoods.scatter(-1, gold, -torch.inf).amax(-1)
        return (right - others)[None].double()
'''
CHANGE = '''
import torch

from trimlab.scanning.statistics import BypassStatistic


class Change(BypassStatistic):
    """Relative squared change of the last hidden states."""

    choices = "none"

    def of_items(self, passes):
        assert passes.likelihoods is None
        mask = passes.position_mask[..., None]
        change = ((passes.hidden - passes.whole) * mask).square().sum((-1, -2))
        size = (passes.whole * mask).square().sum((-1, -2)).expand_as(change)
        return torch.stack([change, size]).double()

    def reduce(self, values):
        return (values[0].sum(-1) / values[1].sum(-1)).tolist()
'''


def test_a_new_statistic_is_one_file(
    stack: SublayerStack,
    items: list[EncodedItem],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "margin.py").write_text(MARGIN)
    (tmp_path / "change.py").write_text(CHANGE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert set(plugin_names(STATISTICS)) == {*NAMES, "margin", "change"}
    batches = scan_batches(items, 400)
    for name in ("margin", "change"):
        found = scan(stack, batches, measures=[name], max_tokens=400)
        expected = []
        for candidate in found.candidates:
            values = [by_hand(name, stack, batch, candidate) for batch in batches]
            above, below = (sum(part) for part in zip(*values, strict=True))
            expected.append(above / below)
        assert found.statistics == {name: pytest.approx(expected, rel=1e-9)}
    # with it, accuracy is still that of the likeliest choice
    both = scan(stack, batches, measures=["accuracy", "margin"]).statistics
    assert both["accuracy"] == scan(stack, batches).statistics["accuracy"]
    # candidates cannot stop early: the whole scan is made
    early = best_first_scan(
        stack,
        items,
        load_scorer("sensitivity"),
        lambda scores: [0],
        measures=["accuracy", "margin"],
    )
    assert early.items is None and set(early.statistics) == {"accuracy", "margin"}


@torch.inference_mode()
def by_hand(
    name: str, stack: SublayerStack, batch: Batch, candidate: Candidate
) -> tuple[float, float]:
    """Sums over a batch: margins and items, or squared changes and squared sizes."""
    whole = plain_hidden(stack, batch)
    with stack.bypass(*candidate):
        hidden = plain_hidden(stack, batch)
    if name == "change":
        read = batch.scored_positions
        whole, hidden = whole.flatten(0, 1)[read], hidden.flatten(0, 1)[read]
        return float((hidden - whole).square().sum()), float(whole.square().sum())
    rows = choice_likelihoods(stack, hidden, batch).tolist()
    margins = [
        row[gold] - max(value for k, value in enumerate(row) if k != gold)
        for row, gold in zip(rows, batch.gold.tolist(), strict=True)
    ]
    return sum(margins), len(margins)


def test_hidden_change_is_the_relative_distance_where_answers_are_predicted(
    stack: SublayerStack, items: list[EncodedItem]
) -> None:
    found = scan(stack, scan_batches(items, 10_000), measures=["hidden_change"])
    dropped = found.candidates[2]
    changes = []
    for item in items:
        (batch,) = scan_batches([item], 10_000)
        read = sorted({*item.logit_index})
        whole = plain_hidden(stack, batch)[0, read]
        with stack.bypass(*dropped):
            without = plain_hidden(stack, batch)[0, read]
        changes.append(float(torch.dist(without, whole) ** 2 / torch.linalg.norm(whole) ** 2))
    assert found.statistics["hidden_change"][2] == pytest.approx(sum(changes) / len(changes))


def test_answer_loss_is_the_mean_over_the_tokens_of_right_answers(
    stack: SublayerStack, items: list[EncodedItem]
) -> None:
    batches = scan_batches(items, 10_000)
    found = scan(stack, batches, measures=["answer_loss", "accuracy"])
    dropped = found.candidates[2]
    losses: list[float] = []
    for item in items:
        (batch,) = scan_batches([item], 10_000)
        with stack.bypass(*dropped), torch.no_grad():
            log_probs = stack.head(plain_hidden(stack, batch)[0]).log_softmax(-1)  # (T, V)
        scored = zip(item.logit_index, item.targets, item.choice_index, strict=True)
        losses += [-float(log_probs[at, token]) for at, token, k in scored if k == item.gold]
    assert len(losses) > len(items)
    assert found.statistics["answer_loss"][2] == pytest.approx(sum(losses) / len(losses))

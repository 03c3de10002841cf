"""Passes side by side: the results of one after another, in their order."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.conftest import TinyModel
from trimlab.best_first import best_first_scan
from trimlab.calibration import candidates, scan, scan_batches
from trimlab.choices import encode
from trimlab.evaluate import answer
from trimlab.families import family_names
from trimlab.lanes import MAX_LANES, lanes
from trimlab.onednn import onednn_linears
from trimlab.scorers import load_scorer, lowest
from trimlab.sublayers import Sublayer, SublayerStack
from trimlab.tasks import Item

IDS = torch.randint(4, 60, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for torch, whatever the suite gives it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def items() -> list[Item]:
    words = ["aa", "ba", "ab a", "a b a b", "bb", "abba", "a"]
    return [
        Item(
            context="ab" * (3 + 5 * i),
            choices=tuple(f" {w}" for w in words[i % 5 : i % 5 + 3]),
            gold=i % 3,
        )
        for i in range(7)
    ]


@pytest.mark.parametrize("family", family_names())
def test_a_lane_bypasses_for_itself_with_the_same_weights(
    family: str, tiny_model: TinyModel, two_threads: None
) -> None:
    model = tiny_model(family, dtype=torch.float32)
    stack = SublayerStack(model)
    tensors = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    met = threading.Barrier(2)  # both passes have begun

    def logits(own: SublayerStack, out: tuple[Sublayer, ...]) -> torch.Tensor:
        assert {id(t) for t in (*own.model.parameters(), *own.model.buffers())} <= tensors
        assert torch.get_num_threads() == 1
        with own.bypass(*out):
            met.wait(timeout=60)
            return own.model(IDS).logits

    parts = [(), (Sublayer(0, "attention"),), (Sublayer(1, "mlp"),), tuple(stack)]
    wanted = []
    with torch.inference_mode():
        for out in parts:
            with stack.bypass(*out):
                wanted.append(model(IDS).logits)
    with onednn_linears(model), lanes(stack) as side_by_side:
        found = list(side_by_side.map(logits, parts))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert torch.get_num_threads() == 2
    model(IDS).logits.sum().backward()  # what is left can be trained


def test_results_come_in_order_and_errors_come_out(
    tiny_model: TinyModel, two_threads: None
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    begun: list[int] = []

    def work(_own: SublayerStack, number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with lanes(stack) as side_by_side:
        assert side_by_side.n == 2
        assert list(side_by_side.map(work, range(3))) == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            list(side_by_side.map(work, [3]))  # alone, it is done where it was asked for
    with pytest.raises(ValueError, match="three"), lanes(stack) as side_by_side:
        list(side_by_side.map(work, [3] * 2 + list(range(4, 500))))
    assert len(begun) < 500  # the others are left out
    assert torch.get_num_threads() == 2
    assert torch.ones(1).requires_grad_().exp().requires_grad  # no inference mode is left behind


def test_there_are_no_more_lanes_than_threads(tiny_model: TinyModel) -> None:
    stack, before = SublayerStack(tiny_model("llama")), torch.get_num_threads()
    try:
        for threads, n in ((1, 1), (3, 3), (2 * MAX_LANES, MAX_LANES)):
            torch.set_num_threads(threads)
            with lanes(stack) as side_by_side:
                assert side_by_side.n == n
                own = list(side_by_side.map(lambda *_: torch.get_num_threads(), [0] * 8))
            assert own == [threads if n == 1 else threads // n] * 8
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt", "gpt_neox"])
def test_scans_and_answers_are_those_of_one_lane(
    family: str,
    tiny_model: TinyModel,
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    two_threads: None,
) -> None:
    tokenizer = tiny_tokenizer()
    stack = SublayerStack(tiny_model(family))  # in float64
    encoded = [encode(tokenizer, item, 64) for item in items()]
    batches = scan_batches(encoded, 128)
    assert len(batches) > 1
    scorer, everything = load_scorer("two_step"), candidates(stack)

    def measured() -> tuple[Any, Any, Any]:
        whole = scan(stack, batches, measures=("accuracy", "norm", "similarity"), max_tokens=128)
        first = best_first_scan(
            stack, encoded, scorer, lambda scores: lowest(everything, scores, 2), max_tokens=128
        )
        return whole, first, answer(stack, batches, full=True)

    side_by_side = measured()
    again = measured()
    monkeypatch.setattr("trimlab.lanes.MAX_LANES", 1)
    in_turn = measured()
    assert side_by_side[0] == again[0]  # to the bit: sums have an order
    assert side_by_side[0].accuracy == in_turn[0].accuracy
    assert side_by_side[0].norm == pytest.approx(in_turn[0].norm, rel=1e-9)
    assert side_by_side[0].similarity == pytest.approx(in_turn[0].similarity, rel=1e-9)
    assert side_by_side[1].items == in_turn[1].items
    assert side_by_side[1].accuracy == in_turn[1].accuracy
    torch.testing.assert_close(side_by_side[2].likelihoods, in_turn[2].likelihoods)
    assert side_by_side[2].score == in_turn[2].score

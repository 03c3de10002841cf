"""Passes on several workers: the results of one after another, in their order."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.tiny import TinyModel
from trimlab.cpu.onednn import onednn_linears
from trimlab.cpu.workers import MAX_WORKERS, open_workers
from trimlab.data.batching import scan_batches
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.evaluation.answers import answer
from trimlab.model.authors_bypass import use_authors_bypass
from trimlab.model.family import FAMILIES
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names
from trimlab.scanning.candidates import Granularity, candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import scan
from trimlab.scanning.selection import Scores, lowest
from trimlab.scanning.statistics import STATISTICS
from trimlab.scorers import load_scorer

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


@pytest.mark.parametrize("family", plugin_names(FAMILIES))
def test_a_worker_bypasses_its_own_modules_around_the_same_weights(
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
    with onednn_linears(model), open_workers(stack) as workers:
        found = list(workers.map(logits, parts))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    model(IDS).logits.sum().backward()  # what is left can be trained


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_results_come_in_order(tiny_model: TinyModel, two_threads: None) -> None:
    second = threading.Event()

    def work(_stack: SublayerStack, number: int) -> int:
        if number == 0:
            assert second.wait(timeout=60)
        if number == 1:
            second.set()
        return number

    with open_workers(SublayerStack(tiny_model("llama"))) as workers:
        assert list(workers.map(work, range(5))) == [0, 1, 2, 3, 4]
        assert list(workers.map(work, [])) == []
        alone = workers.map(work, [7])
        assert next(alone) == 7
        assert not torch.is_inference_mode_enabled()  # out here
        assert list(alone) == []
    assert threads_of_a_new_thread() == 2


def test_an_error_is_raised_and_the_rest_is_cancelled(
    tiny_model: TinyModel, two_threads: None
) -> None:
    stack, caught = SublayerStack(tiny_model("llama")), threading.Event()
    begun: list[int] = []

    def work(_stack: SublayerStack, number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError("zero")
        caught.wait(timeout=60)

    with open_workers(stack) as workers:
        with pytest.raises(ValueError, match="zero"):
            list(workers.map(work, range(20)))
        caught.set()
    assert 1 <= len(begun) <= 3  # what had begun before it was noticed
    assert threads_of_a_new_thread() == 2


def test_long_work_ends_when_its_result_is_not_needed(
    tiny_model: TinyModel, two_threads: None
) -> None:
    begun, ended = threading.Barrier(2), []

    def work(_stack: SublayerStack, number: int) -> None:
        begun.wait(timeout=60)
        if number == 0:
            raise KeyboardInterrupt
        try:
            while True:
                workers.raise_if_closing()
                time.sleep(0.001)
        except CancelledError:
            ended.append(number)
            raise

    with (
        pytest.raises(KeyboardInterrupt),
        open_workers(SublayerStack(tiny_model("llama"))) as workers,
    ):
        list(workers.map(work, range(2)))
    assert ended == [1]


@pytest.mark.parametrize(("threads", "n"), [(1, 1), (3, 3), (5, 1), (6, 3), (8, 4)])
def test_threads_are_divided_evenly(threads: int, n: int, tiny_model: TinyModel) -> None:
    stack, before = SublayerStack(tiny_model("llama")), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with open_workers(stack) as workers:
            assert workers.n == n <= MAX_WORKERS
            own = list(workers.map(lambda *_: torch.get_num_threads(), [0] * 8))
        assert own == [threads // n] * 8
        assert threads_of_a_new_thread() == threads
    finally:
        torch.set_num_threads(before)


def test_weights_are_freed_at_the_end(
    tiny_model: TinyModel, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in oneDNN's layout with the context, although replicas still refer to their layers."""
    blocks: list[weakref.ref[torch.Tensor]] = []
    reorder = torch.ops.mkldnn._reorder_linear_weight

    def watched(weight: torch.Tensor) -> torch.Tensor:
        reordered = reorder(weight)
        blocks.append(weakref.ref(reordered))
        return reordered

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", watched)
    model = tiny_model("gemma3_text", dtype=torch.float32)
    stack = SublayerStack(model)
    gc.disable()
    try:
        with onednn_linears(model), open_workers(stack) as workers:
            list(workers.map(lambda own, _: own.model(IDS).logits, range(4)))
            assert blocks and all(reordered() is not None for reordered in blocks)
        assert all(reordered() is None for reordered in blocks)
        weight = weakref.ref(model.model.layers[1].mlp.up_proj.weight)
        del workers
        stack.drop(Sublayer(1, "mlp"))
        assert weight() is None
    finally:
        gc.enable()


def drop_some(stack: SublayerStack) -> None:
    stack.drop(Sublayer(0, "attention"), Sublayer(1, "mlp"))


def drop_one_as_the_authors_do(stack: SublayerStack) -> None:
    use_authors_bypass(stack)
    stack.drop(Sublayer(0, "attention"))


@pytest.mark.parametrize("granularity", ["sublayer", "pair"])
@pytest.mark.parametrize(
    ("family", "prepare"),
    [
        ("llama", None),
        ("llama", drop_one_as_the_authors_do),
        ("gemma3_text", drop_some),
        ("opt", drop_some),
        ("gpt_neox", None),
    ],
)
def test_scans_and_answers_are_those_of_one_worker(
    family: str,
    prepare: Callable[[SublayerStack], None] | None,
    granularity: Granularity,
    tiny_model: TinyModel,
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    two_threads: None,
) -> None:
    tokenizer = tiny_tokenizer()
    stack = SublayerStack(tiny_model(family))  # in float64
    if prepare is not None:
        prepare(stack)
    encoded = [encode(tokenizer, item, 64) for item in items()]
    batches = scan_batches(encoded, 128)
    assert len(batches) > 1
    scorer, everything = load_scorer("two_step"), candidates(stack, granularity)

    def choose(scores: Scores) -> list[int]:
        return lowest(everything, scores, 2)

    def results() -> tuple[Any, Any, Any]:
        names = plugin_names(STATISTICS)
        whole = scan(stack, batches, granularity, names, max_tokens=128)
        first = best_first_scan(stack, encoded, scorer, choose, granularity, max_tokens=128)
        return whole, first, answer(stack, batches, full=True)

    workers = results()
    again = results()
    monkeypatch.setattr("trimlab.cpu.workers.MAX_WORKERS", 1)
    in_turn = results()
    assert workers[0] == again[0]  # to the bit: sums have an order
    assert workers[0].accuracy == in_turn[0].accuracy
    for name, values in in_turn[0].statistics.items():
        assert workers[0].statistics[name] == pytest.approx(values, rel=1e-9), name
    assert workers[1] == again[1]
    chosen = choose(scorer(in_turn[1]))
    assert choose(scorer(workers[1])) == chosen
    for early in (workers[1], in_turn[1]):  # what a worker has begun may not be needed any more
        for index, accuracy in enumerate(in_turn[0].accuracy):
            whole = early.items[index] == len(encoded)
            assert whole or index not in chosen
            assert early.accuracy[index] == accuracy if whole else early.accuracy[index] >= accuracy
    torch.testing.assert_close(workers[2].likelihoods, in_turn[2].likelihoods)
    assert workers[2].score == in_turn[2].score

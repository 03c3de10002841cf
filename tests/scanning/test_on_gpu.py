"""On a GPU: the numbers of a CPU, and a host that runs ahead of the device.

Where there is no GPU, a stand-in notes what the host waits for; see `tests/host_waits.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.host_waits import fake_cuda
from tests.scanning.test_early_stopping import items_of
from tests.tiny import TinyModel, TinyTokenizer
from trimlab.data.batching import Batch, batches, collate, scan_batches
from trimlab.data.capacity import capacity
from trimlab.data.encoding import EncodedItem
from trimlab.evaluation.answers import answer
from trimlab.evaluation.decoding import greedy_tokens, read_prompt
from trimlab.evaluation.generation import greedy_answer
from trimlab.evaluation.speed import decode_seconds
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import plugin_names
from trimlab.scanning.candidates import candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import lowest
from trimlab.scanning.statistics import STATISTICS
from trimlab.scorers.two_step import TwoStep

NAMES = plugin_names(STATISTICS)
TOKENS = 800
FAMILIES = ["llama", "gemma3_text", "opt"]  # plain, sliding windows, an MLP without a module

Work = Callable[[SublayerStack], Any]


def on_both(model: Any, work: Work) -> tuple[Any, Any, list[str]]:
    """The results of work on a CPU and on a GPU, and the waits there."""
    on_cpu = work(SublayerStack(model))
    with fake_cuda() as waits:
        model.to("cuda")
        stack = SublayerStack(model)
        waits.clear()
        on_gpu = work(stack)
        return on_cpu, on_gpu, list(waits)


@pytest.fixture
def items(tiny_tokenizer: TinyTokenizer) -> list[EncodedItem]:
    return items_of(tiny_tokenizer(), 10)


def whole_scan(items: Sequence[EncodedItem], **options: Any) -> Work:
    return lambda stack: scan(
        stack, scan_batches(items, TOKENS), measures=NAMES, max_tokens=TOKENS, **options
    )


def choice(items: Sequence[EncodedItem]) -> Callable[[SublayerStack], Scan]:
    scorer = TwoStep()

    def work(stack: SublayerStack) -> Scan:
        found = candidates(stack)
        return best_first_scan(
            stack, items, scorer, lambda scores: lowest(found, scores, 2), max_tokens=TOKENS
        )

    return work


def chosen(found: Scan) -> list[int]:
    return lowest(found.candidates, TwoStep()(found), 2)


def groups_of(items: Sequence[EncodedItem]) -> list[Batch]:
    return [collate(items, group) for group in batches(items, 200)]


@pytest.mark.parametrize(
    ("family", "metric"),
    [("llama", "exp_neg_loss"), ("gemma3_text", "accuracy"), ("opt", "token_accuracy")],
)
def test_a_scan_waits_at_its_end(
    family: str, metric: Any, tiny_model: TinyModel, items: list[EncodedItem]
) -> None:
    on_cpu, on_gpu, waits = on_both(tiny_model(family), whole_scan(items, metric=metric))
    for name in NAMES:
        assert on_gpu.statistics[name] == pytest.approx(on_cpu.statistics[name], rel=1e-6)
    assert len(waits) == len(NAMES), "\n".join(waits)


def test_in_float32_a_gpu_drops_the_same(tiny_model: TinyModel, items: list[EncodedItem]) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    on_cpu, on_gpu, _ = on_both(model, whole_scan(items))
    assert on_gpu.accuracy == on_cpu.accuracy and chosen(on_gpu) == chosen(on_cpu)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_choice_waits_once_for_each_pass(
    family: str, tiny_model: TinyModel, items: list[EncodedItem]
) -> None:
    on_cpu, on_gpu, waits = on_both(tiny_model(family), choice(items))
    assert chosen(on_gpu) == chosen(on_cpu)
    decided = [wait for wait in waits if "early_stopping" in wait]
    met = sum(on_gpu.items)
    assert len(decided) < met / 2, "candidates share passes, and items too"
    assert len(waits) - len(decided) <= 2, "\n".join(waits)  # margins, and the norms


@pytest.mark.parametrize("metric", ["accuracy", "exp_neg_loss", "token_accuracy"])
def test_scoring_waits_once_for_each_batch(
    metric: Any, tiny_model: TinyModel, items: list[EncodedItem]
) -> None:
    groups = groups_of(items)
    assert len(groups) > 1
    on_cpu, on_gpu, waits = on_both(
        tiny_model("llama"), lambda stack: answer(stack, groups, metric, full=True)
    )
    assert on_gpu.correct == on_cpu.correct and on_gpu.score == pytest.approx(on_cpu.score)
    torch.testing.assert_close(on_gpu.likelihoods, on_cpu.likelihoods)
    assert len(waits) == len(groups), "\n".join(waits)


def test_the_next_batch_is_queued_before_the_answers_to_one_are_read(
    tiny_model: TinyModel, items: list[EncodedItem]
) -> None:
    groups, events = groups_of(items), list[str]()
    with fake_cuda() as waits:
        model = tiny_model("llama").to("cuda")
        model.model.register_forward_pre_hook(lambda *_: events.append(f"pass {len(waits)}"))
        waits.clear()
        answer(SublayerStack(model), groups)
    assert events == [f"pass {max(0, index - 1)}" for index in range(len(groups))]


def test_a_gpu_generates_some_tokens_before_they_are_read(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer = tiny_tokenizer()
    context = tokenizer("the owl is in the bin:")["input_ids"]

    def work(stack: SublayerStack) -> str:
        return greedy_answer(stack.model, tokenizer, context, 20, one_line=False)

    on_cpu, on_gpu, waits = on_both(tiny_model("llama"), work)
    assert on_gpu == on_cpu
    assert len(waits) <= 3  # 20 tokens, of which 8 are read at once


def test_decoding_is_timed_without_a_wait(tiny_model: TinyModel) -> None:
    with fake_cuda() as waits:
        model = tiny_model("llama").to("cuda")
        prompt = read_prompt(model, torch.arange(8, device="cuda")[None])
        waits.clear()
        tokens = greedy_tokens(model, prompt)
        assert [next(tokens).shape for _ in range(4)] == [(1, 1)] * 4
        assert waits == []
        decode_seconds(model, prompt_tokens=8, new_tokens=4)
        assert [wait.partition(" ")[0] for wait in waits] == ["synchronize"] * 2


def test_a_gpu_computes_as_much_at_once_as_its_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("cuda")
    assert capacity(torch.device("cpu")).tokens == 1024
    with fake_cuda():
        assert capacity(device).tokens == 32768  # 80 GiB
        assert capacity(device, 5000).tokens == 5000  # asked for
        for gib, tokens in ((4, 4096), (24, 8192), (40, 16384), (140, 65536), (500, 65536)):
            about = torch.cuda.get_device_properties(device)
            monkeypatch.setattr(about, "total_memory", gib * 2**30)
            assert capacity(device).tokens == tokens


# ---- bfloat16 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_the_choice_is_that_of_a_whole_scan(
    family: str, tiny_model: TinyModel, items: list[EncodedItem]
) -> None:
    """Up to an answer whose two likeliest choices are as good as equal."""
    stack = SublayerStack(tiny_model(family).bfloat16())
    whole, early = whole_scan(items)(stack), choice(items)(stack)
    assert whole.accuracy is not None and early.accuracy is not None
    step = 100 / len(items)
    for index in chosen(early):
        assert early.items is not None and early.items[index] == len(items)
        assert abs(early.accuracy[index] - whole.accuracy[index]) <= step
    lowest_whole = [TwoStep()(whole)[index] for index in chosen(early)]
    assert max(lowest_whole) <= sorted(TwoStep()(whole))[3]


# ---- a real GPU ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_gives_the_numbers_of_a_cpu_without_waiting(
    family: str, tiny_model: TinyModel, items: list[EncodedItem]
) -> None:
    model, groups = tiny_model(family, dtype=torch.float32), groups_of(items)
    on_cpu = whole_scan(items)(SublayerStack(model))
    stack = SublayerStack(model.to("cuda"))
    whole_scan(items)(stack)  # libraries are initialised
    answer(stack, groups)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.MonkeyPatch.context() as patches:  # copies to the host are what is left
            patches.setattr(torch.Tensor, "cpu", _allowed(torch.Tensor.cpu))
            on_gpu = whole_scan(items)(stack)
            answer(stack, groups)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert on_gpu.accuracy == on_cpu.accuracy and chosen(on_gpu) == chosen(on_cpu)
    assert on_gpu.norm == pytest.approx(on_cpu.norm, rel=1e-4)
    assert chosen(choice(items)(stack)) == chosen(on_cpu)


def _allowed(read: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def method(self: torch.Tensor, *args: Any) -> torch.Tensor:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return read(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    return method


@pytest.mark.gpu
def test_a_card_computes_in_bfloat16(tiny_model: TinyModel, items: list[EncodedItem]) -> None:
    stack = SublayerStack(tiny_model("llama").to("cuda", torch.bfloat16))
    found, groups = whole_scan(items)(stack), groups_of(items)
    assert found.accuracy is not None and len(found.accuracy) == len(stack)
    assert answer(stack, groups).likelihoods.isfinite().any(1).all()

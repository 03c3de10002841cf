"""Early stopping changes the accuracy of candidates that are not chosen, never the choice."""

import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import TinyModel, TinyTokenizer
from trimlab.cpu.workers import Workers, open_workers
from trimlab.data.batching import collate, scan_batches
from trimlab.data.encoding import EncodedItem, encode
from trimlab.data.items import Item
from trimlab.evaluation.likelihoods import choice_likelihoods
from trimlab.model.family import FAMILIES
from trimlab.model.notes import note_once
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names
from trimlab.scanning import early_stopping
from trimlab.scanning.cached_items import priority
from trimlab.scanning.candidates import Granularity, candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.forward_cache import ForwardCache, cache_forward, hidden_without
from trimlab.scanning.rounds import plan_round
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import lowest
from trimlab.scanning.statistics import STATISTICS
from trimlab.scorers import SCORERS, Scorer, load_scorer
from trimlab.scorers.two_step import TwoStep


def items_of(tokenizer: Any, n: int, seed: int = 0) -> list[EncodedItem]:
    """Items of very different lengths, with choices of different token counts."""
    draw = random.Random(seed)

    def text(most: int) -> str:
        return "".join(draw.choices("abcdefgh ", k=draw.randint(1, most))) + "x"

    made = []
    for _ in range(n):
        choices = tuple(f" {text(6)}{k}" for k in range(draw.randint(2, 4)))
        item = Item(f"{text(draw.choice([3, 30]))}:", choices, draw.randrange(len(choices)))
        made.append(encode(tokenizer, item, 256))
    return made


def both(
    stack: SublayerStack,
    items: Sequence[EncodedItem],
    scorer: Scorer,
    k: int,
    granularity: Granularity = "sublayer",
    **options: Any,
) -> tuple[Scan, Scan]:
    everything = candidates(stack, granularity)
    whole = scan(stack, scan_batches(items, 64), granularity, scorer.statistics, max_tokens=64)
    early = best_first_scan(
        stack,
        items,
        scorer,
        lambda scores: lowest(everything, scores, k),
        granularity,
        scorer.statistics,
        max_tokens=64,
        **options,
    )
    assert lowest(everything, scorer(early), k) == lowest(everything, scorer(whole), k)
    return whole, early


@pytest.mark.parametrize("granularity", ["sublayer", "pair", "block"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_the_choice_is_that_of_a_whole_scan(
    family: str, granularity: Granularity, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack = SublayerStack(tiny_model(family))
    items = items_of(tiny_tokenizer(), 24)
    for k in (1, 2, 4):
        whole, early = both(stack, items, TwoStep(), k, granularity)
        assert early.norm == whole.norm and early.candidates == whole.candidates
        assert early.accuracy and early.items and whole.accuracy
        for bound, exact, met in zip(early.accuracy, whole.accuracy, early.items, strict=True):
            assert bound >= exact
            assert met < len(items) or bound == exact
        for index in lowest(early.candidates, TwoStep()(early), k):
            assert early.items[index] == len(items)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), k=st.integers(1, 8))
def test_any_model_and_any_items(
    seed: int, n: int, k: int, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack = SublayerStack(tiny_model("llama", seed=seed))
    both(stack, items_of(tiny_tokenizer(), n, seed), TwoStep(), k)


def test_candidates_do_stop_early(tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer) -> None:
    stack = SublayerStack(tiny_model("llama"))
    _, early = both(stack, items_of(tiny_tokenizer(), 40), TwoStep(), 1)
    assert early.items and sum(early.items) < 0.8 * 40 * len(early.items)


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    n_group=st.integers(1, 40),
    max_tokens=st.integers(1, 400),
    workers=st.integers(1, 4),
)
def test_no_worker_repeats_the_work_of_another(
    lengths: list[int], n_group: int, max_tokens: int, workers: int
) -> None:
    group = random.Random(len(lengths)).sample(range(50), n_group)
    passes = plan_round(lengths, group, max_tokens, workers)
    of_item: dict[int, list[int]] = {}
    for item, candidates_ in passes:
        assert candidates_ and candidates_ == sorted(candidates_)  # in the order of execution
        assert len(candidates_) == 1 or len(candidates_) * lengths[item] * workers <= max_tokens
        of_item.setdefault(item, []).extend(candidates_)
    tokens = [len(candidates_) * lengths[item] for item, candidates_ in passes]
    assert tokens == sorted(tokens, reverse=True)  # the longest first
    assert sorted(of_item) == list(range(len(of_item)))  # no item is skipped
    # the same candidates meet each item, once; the most likely choice is among them
    first = set(of_item[0])
    assert first == set(group[: len(first)])
    for candidates_ in of_item.values():
        assert len(candidates_) == len(set(candidates_)) and set(candidates_) == first
    if workers == 1:
        assert len(passes) == 1


@pytest.mark.parametrize("family", plugin_names(FAMILIES))
@torch.inference_mode()
def test_a_cached_item_of_a_batch_gives_what_the_item_alone_gives(
    family: str, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack = SublayerStack(tiny_model(family).eval())
    items = items_of(tiny_tokenizer(), 5)
    assert len({len(item.tokens) for item in items}) > 1  # some are padded
    together = collate(items)
    cache = cache_forward(stack, together)
    for row, item in enumerate(items):
        alone = collate([item])
        own = cache_forward(stack, alone)
        likelihoods = [
            choice_likelihoods(
                stack,
                hidden_without(stack, whole, candidates(stack), alone.scored_positions),
                alone.repeated(len(stack)),
            )  # (C, K)
            for whole in (cache.of_item(row), own)
        ]
        # eager attention (Gemma 2) takes its softmax in float32
        torch.testing.assert_close(*likelihoods, rtol=1e-6, atol=0)


def test_wrong_items_come_first_and_the_shortest_of_them_in_front(
    tiny_tokenizer: TinyTokenizer,
) -> None:
    def item(context: str) -> EncodedItem:
        return encode(tiny_tokenizer(), Item(context, (" a", " b"), 0), 256)

    margins = {"a": 2.0, "abcdefgh": -3.0, "abc": -0.1, "abcd": 0.5}
    in_order = sorted(margins, key=lambda context: priority(item(context), margins[context]))
    assert in_order == ["abc", "abcdefgh", "abcd", "a"]


def test_ties_are_broken_by_norm(tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer) -> None:
    """One easy item: all answers are right or all are wrong, and only norms differ."""
    stack = SublayerStack(tiny_model("qwen3"))
    for seed in range(8):
        both(stack, items_of(tiny_tokenizer(), 1, seed), TwoStep(), 3)


def test_without_memory_for_the_caches_a_whole_scan_is_made(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    whole, early = both(stack, items_of(tiny_tokenizer(), 9), TwoStep(), 1, max_bytes=1000)
    assert early == whole and early.items is None


def test_without_memory_for_a_pass_fewer_candidates_share_it(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, capsys: pytest.CaptureFixture
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    items = items_of(tiny_tokenizer(), 3)

    def choice_scan() -> Scan:
        everything = candidates(stack)
        return best_first_scan(stack, items, TwoStep(), lambda s: lowest(everything, s, 2))

    def fill_memory(_block: Any, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > len(items):  # rows: no more than that is cached at once
            torch.empty(1 << 50)

    whole = choice_scan()
    note_once.cache_clear()
    stack.blocks[-1].register_forward_pre_hook(fill_memory)
    assert choice_scan() == whole
    assert "memory in the scan: going on with 2 candidates at once" in capsys.readouterr().err


def test_the_caches_are_freed_before_the_weights_are_restored(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can be most of the memory, and free memory is returned to the system only there."""
    stack = SublayerStack(tiny_model("llama"))
    made: list[weakref.ref[ForwardCache]] = []
    alive: list[int] = []

    of_item = ForwardCache.of_item

    def watched(self: ForwardCache, index: int) -> ForwardCache:
        cache = of_item(self, index)
        made.append(weakref.ref(cache))
        return cache

    @contextmanager
    def inference_without_onednn(stack: SublayerStack) -> Iterator[Workers]:
        with open_workers(stack) as workers:
            yield workers
        alive.append(sum(cache() is not None for cache in made))

    monkeypatch.setattr(ForwardCache, "of_item", watched)
    monkeypatch.setattr(early_stopping, "inference", inference_without_onednn)
    both(stack, items_of(tiny_tokenizer(), 9), TwoStep(), 1)
    assert made and alive == [0]


def test_its_products_are_those_of_a_whole_scan(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    """In oneDNN's layout in both: otherwise near-ties could have two answers in one run."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    stack = SublayerStack(tiny_model("llama", dtype=torch.float32))
    linears = [m for m in stack.blocks[3].modules() if type(m) is torch.nn.Linear]
    in_blocks: list[bool] = []
    stack.blocks[3].register_forward_pre_hook(
        lambda *_: in_blocks.append(all(m.weight.numel() == 0 for m in linears))
    )
    both(stack, items_of(tiny_tokenizer(), 8), TwoStep(), 1)
    assert len(in_blocks) > 8 and all(in_blocks)
    assert all(p.numel() for p in stack.model.parameters())


def test_an_interruption_leaves_the_model_as_it_was(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    stack.model.train()

    def interrupt(*_: Any) -> None:
        if len(stack) < 8:  # a candidate is bypassed
            raise KeyboardInterrupt

    stack.blocks[0].register_forward_pre_hook(interrupt)
    items = items_of(tiny_tokenizer(), 5)
    with pytest.raises(KeyboardInterrupt):
        best_first_scan(stack, items, TwoStep(), lambda scores: [0], max_tokens=64)
    assert len(stack) == 8 and stack.model.training


@pytest.mark.parametrize("name", plugin_names(SCORERS))
def test_scorers_that_declare_it_fall_with_accuracy(name: str) -> None:
    scorer = load_scorer(name)
    if not scorer.falls_with_accuracy:
        return
    found = [(Sublayer(0, "attention"),), (Sublayer(0, "mlp"),)]
    others = {name: [2.0, 0.5] for name in plugin_names(STATISTICS)}
    for other in (0.0, 50.0, 100.0):
        scores = [
            scorer(Scan(found, others | {"accuracy": [a, other]}))[0]
            for a in torch.linspace(0, 100, 41).tolist()
        ]
        assert scores == sorted(scores, reverse=True)


def test_lowest_by_hand() -> None:
    a, b, c = (Sublayer(i, "attention") for i in range(3))
    pairs = [(a, b), (b, c), (c,)]
    assert lowest(pairs, [(2.0,), (1.0,), (3.0,)], 2) == [1]
    assert lowest(pairs, [(1.0,), (2.0,), (3.0,)], 2) == [0, 2]
    assert lowest(pairs, [(1.0,), (1.0,), (1.0,)], 1) == [0]


def test_a_run_makes_the_same_drops(tmp_path: Path, tiny_folder: Any, letters_domain: Any) -> None:
    import trimlab

    base = tiny_folder(tmp_path)
    root = tmp_path / "domain"
    root.mkdir()
    letters_domain(root)
    dropped = {}
    for kind in ("all", "choice"):
        summary = trimlab.trim(
            str(base),
            "jsonl",
            tmp_path / kind,
            recipe="paper",
            data={
                "root": root,
                "train_rows": 16,
                "calibration_rows": 12,
                "dev_rows": 8,
                "test_rows": 8,
                "batch_size": 8,
            },
            run={"full_depth": False, "speed": False},
            trainer={"accelerator": "cpu", "enable_progress_bar": False},
            max_drops=4,
            scan=kind,
            progress=False,
        )
        dropped[kind] = summary["trimmed"]["dropped"]
    assert dropped["all"] == dropped["choice"]
    assert '"items"' in (tmp_path / "choice" / "record.jsonl").read_text()

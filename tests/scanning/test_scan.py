"""A scan gives what one full evaluation per candidate gives."""

import itertools
import math
import os
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny import PlainScores, TinyModel, TinyTokenizer
from trimlab.data.batching import batches, collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.model.family import FAMILIES
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names
from trimlab.scanning.candidates import Candidate, Granularity, candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.forward_cache import cache_forward
from trimlab.scanning.scan import scan
from trimlab.scanning.statistics import STATISTICS
from trimlab.scorers import SCORERS, load_scorer

ITEMS = [
    Item("the owl is in the bin:", (" yes", " no, never"), 0),
    Item("b", ("cat", "dog"), 1),
    Item("question: what is 2 - 1?\nanswer: ", ("1", "an owl", "the man"), 2),
    Item("", ("a man", "on"), 0),
]
ATTENTIONS = [Sublayer(block, "attention") for block in range(4)]
MLPS = [Sublayer(block, "mlp") for block in range(4)]
ALL = sorted(ATTENTIONS + MLPS)
DROPPED = [ATTENTIONS[0], MLPS[1]]  # leaves pairs that span blocks, and blocks with one half
BLOCK_1 = [ATTENTIONS[1], MLPS[1]]  # leaves a pair around a block without sublayers
NAMES = plugin_names(STATISTICS)

every_family = pytest.mark.parametrize("family", plugin_names(FAMILIES))


def encoded(tokenizer: PreTrainedTokenizerFast) -> list[Any]:
    return [encode(tokenizer, item, 256) for item in ITEMS]


# ---- the accuracies --------------------------------------------------------------------------


def compare_with_full_evaluations(
    tiny_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    plain_scores: PlainScores,
    granularity: Granularity = "sublayer",
    history: Sequence[Sublayer] = (),
    items: Sequence[Item] = ITEMS,
    max_tokens: int = 10_000,
    at_once: int = 10_000,
) -> None:
    """Every candidate dropped from a fresh model, and every choice in a pass of its own."""
    stack = SublayerStack(tiny_model())
    stack.drop(*history)
    trees = [encode(tokenizer, item, 256) for item in items]
    groups = [collate(trees, group) for group in batches(trees, max_tokens)]
    accuracy = scan(stack, groups, granularity, max_tokens=at_once)
    likelihood = scan(stack, groups, granularity, metric="exp_neg_loss", max_tokens=at_once)
    assert accuracy.candidates == likelihood.candidates == candidates(stack, granularity)
    assert accuracy.accuracy is not None and likelihood.accuracy is not None
    for index, candidate in enumerate(accuracy.candidates):
        model = tiny_model()
        SublayerStack(model).drop(*history, *candidate)
        scores = [plain_scores(model, tokenizer, item) for item in items]
        right = sum(s.index(max(s)) == i.gold for s, i in zip(scores, items, strict=True))
        assert accuracy.accuracy[index] == pytest.approx(100 * (right / len(items)), rel=1e-14)

        loss = -sum(s[i.gold] for s, i in zip(scores, items, strict=True))
        tokens = sum(
            sum(choice_of == item.gold for choice_of in tree.choice_index)
            for tree, item in zip(trees, items, strict=True)
        )
        expected = 100 * torch.tensor(-loss / tokens).double().exp().item()
        # eager attention (Gemma 2) takes its softmax in float32
        assert likelihood.accuracy[index] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("at_once", [1, 1_000, 10_000], ids=["one", "some", "all at once"])
@pytest.mark.parametrize(
    ("granularity", "history"),
    [("sublayer", []), ("pair", DROPPED), ("pair", BLOCK_1), ("block", DROPPED)],
    ids=["sublayer", "pair", "pair around a block", "block"],
)
@every_family
def test_a_scan_gives_what_full_evaluations_give(
    family: str,
    granularity: Granularity,
    history: list[Sublayer],
    at_once: int,
    tiny_model: TinyModel,
    tiny_tokenizer: TinyTokenizer,
    plain_scores: PlainScores,
) -> None:
    compare_with_full_evaluations(
        lambda: tiny_model(family),
        tiny_tokenizer(),
        plain_scores,
        granularity,
        history,
        at_once=at_once,
    )


OTHER_ITEMS = {
    "one item": ITEMS[:1],
    "one item, choices of one and of many tokens": [Item("so:", (" a", " one, two, three"), 1)],
    "very different lengths": [
        Item("b", ("cat", "dog"), 0),
        Item("the thin man is in the bin " * 6, (" yes", " no, never ever" * 4, " x"), 1),
        Item("who?", (" the man", " an owl"), 1),
        Item("the owl " * 3, (" in", " on the bin" * 9), 0),
    ],
}


@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
@pytest.mark.parametrize("items", OTHER_ITEMS.values(), ids=OTHER_ITEMS)
@pytest.mark.parametrize("family", ["gemma3_text", "gpt_neox", "opt"])
def test_a_scan_of_any_items_in_any_batches(
    family: str,
    items: list[Item],
    max_tokens: int,
    tiny_model: TinyModel,
    tiny_tokenizer: TinyTokenizer,
    plain_scores: PlainScores,
) -> None:
    compare_with_full_evaluations(
        lambda: tiny_model(family),
        tiny_tokenizer(),
        plain_scores,
        items=items,
        max_tokens=max_tokens,
    )


def test_a_scan_keeps_one_cache_at_a_time(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    """However many items there are."""
    model = tiny_model("llama")
    cached: list[weakref.ref[Tensor]] = []  # the first residual stream of every batch
    alive = []

    def watch(_module: Any, _args: Any, embeddings: Tensor) -> None:
        cached.append(weakref.ref(embeddings))
        alive.append(sum(kept() is not None for kept in cached))

    model.get_input_embeddings().register_forward_hook(watch)
    groups = [collate(encoded(tiny_tokenizer()), [index]) for index in (0, 1, 2, 3, 0, 1)]
    scan(SublayerStack(model), groups, measures=NAMES)
    assert len(alive) == 6 and max(alive) == 1


@torch.inference_mode()
def test_outputs_of_sublayers_are_not_cached(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    """It would double what a cache holds."""
    stack = SublayerStack(tiny_model("llama"))
    shown: list[tuple[Sublayer, weakref.ref[Tensor]]] = []
    cache = cache_forward(
        stack,
        collate(encoded(tiny_tokenizer())),
        lambda sublayer, _before, added: shown.append((sublayer, weakref.ref(added))),
    )
    assert [sublayer for sublayer, _ in shown] == list(stack) == list(cache.before)
    assert all(added() is None for _, added in shown)


@every_family
def test_in_float32_a_scan_differs_only_where_two_choices_are_as_good_as_equal(
    family: str, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, plain_scores: PlainScores
) -> None:
    tokenizer = tiny_tokenizer()
    stack = SublayerStack(tiny_model(family, dtype=torch.float32))
    flips = []
    for number, (tree, item) in enumerate(zip(encoded(tokenizer), ITEMS, strict=True)):
        found = scan(stack, [collate([tree])])
        assert found.accuracy is not None
        for candidate, accuracy in zip(found.candidates, found.accuracy, strict=True):
            model = tiny_model(family, dtype=torch.float32)
            SublayerStack(model).drop(*candidate)
            scores = plain_scores(model, tokenizer, item)
            first, second = sorted(scores)[-1:-3:-1]
            if accuracy != 100 * (scores.index(first) == item.gold):
                flips.append((candidate, number, first - second))
    if flips:
        warnings.warn(f"near-ties that flipped in float32: {flips}", stacklevel=1)
    assert all(margin < 1e-4 for *_, margin in flips)


@every_family
def test_in_bfloat16_a_scan_makes_the_choice_of_full_evaluations(
    family: str, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, plain_scores: PlainScores
) -> None:
    """What runs on a GPU: the same answers, unless two choices are as good as equal."""
    tokenizer, items = tiny_tokenizer(), encoded(tiny_tokenizer())
    stack = SublayerStack(tiny_model(family).bfloat16())
    found = scan(stack, [collate(items)], measures=NAMES)
    assert found.accuracy is not None
    surely = [0] * len(found.candidates)  # right answers by a clear margin
    unsure = [0] * len(found.candidates)
    for index, candidate in enumerate(found.candidates):
        with stack.bypass(*candidate):
            for item in ITEMS:
                scores = plain_scores(stack.model, tokenizer, item)
                first, second = sorted(scores)[-1:-3:-1]
                if first - second < 0.02 * abs(first):
                    unsure[index] += 1
                else:
                    surely[index] += scores.index(first) == item.gold
    for accuracy, right, maybe in zip(found.accuracy, surely, unsure, strict=True):
        assert 100 * right / len(ITEMS) <= accuracy <= 100 * (right + maybe) / len(ITEMS)
    assert sum(unsure) < len(ITEMS) * len(found.candidates) / 4
    exact = scan(SublayerStack(tiny_model(family)), [collate(items)], measures=NAMES)
    assert found.norm == pytest.approx(exact.norm, rel=0.05)
    assert found.similarity == pytest.approx(exact.similarity, abs=0.05)
    for name in plugin_names(SCORERS):
        scores = load_scorer(name)(found)
        assert all(math.isfinite(number) for score in scores for number in score)


def test_a_final_projection_is_applied_without_a_candidate(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, plain_scores: PlainScores
) -> None:
    compare_with_full_evaluations(
        lambda: tiny_model("opt", word_embed_proj_dim=16), tiny_tokenizer(), plain_scores
    )


# ---- norm and similarity ---------------------------------------------------------------------


def residual_stream(stack: SublayerStack, ids: list[int]) -> list[Tensor]:
    """The stream before each of the 2 x 4 sublayers, and behind the last."""
    states: list[Tensor] = []

    def keep(_module: Any, args: Any) -> None:
        states.append(args[0].reshape(len(ids), -1))

    hooks = []
    for block in stack.blocks:
        hooks.append(block.register_forward_pre_hook(keep))
        mlp_norm = getattr(block, stack.family.mlp.modules[0])
        hooks.append(mlp_norm.register_forward_pre_hook(keep))
    final_norm = stack.model.get_submodule(stack.family.final_norm[0])
    hooks.append(final_norm.register_forward_pre_hook(keep))
    with torch.no_grad():
        stack.model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return states


def before_and_after(
    stack: SublayerStack, ids: list[int], candidate: Candidate
) -> tuple[Tensor, Tensor]:
    first, last = (2 * s.block + (s.kind == "mlp") for s in (candidate[0], candidate[-1]))
    stream = residual_stream(stack, ids)
    if not stack.parallel:
        return stream[first], stream[last + 1]
    # both halves read the same input: what one adds is missing behind the block without it
    start, end = 2 * candidate[0].block, 2 * candidate[0].block + 2
    with stack.bypass(*candidate):
        without = residual_stream(stack, ids)[end]
    return stream[start], stream[start] + stream[end] - without


def by_hand(
    stack: SublayerStack, tokenizer: PreTrainedTokenizerFast, candidate: Candidate
) -> tuple[float, float]:
    """Norm and similarity over the tokens of each item: the shared context once, no padding."""
    norms, cosines = [], []
    for item in ITEMS:
        texts = [tokenizer(item.context + choice)["input_ids"] for choice in item.choices]
        context = len(tokenizer(item.context)["input_ids"])
        prefix = min(context, len(os.path.commonprefix(texts)))
        squares = 0.0
        for index, text in enumerate(texts):
            pair = before_and_after(stack, text[:-1], candidate)
            before, after = (state[prefix if index else 0 :] for state in pair)
            squares += float((after - before).square().sum())
            cosines += torch.cosine_similarity(before, after, dim=-1).tolist()
        norms.append(squares**0.5)
    return sum(norms) / len(norms), sum(cosines) / len(cosines)


@pytest.mark.parametrize(
    ("granularity", "history"),
    [("sublayer", []), ("pair", DROPPED), ("pair", BLOCK_1)],
    ids=["sublayer", "pair", "pair around a block"],
)
@every_family
def test_norm_and_similarity_by_brute_force(
    family: str,
    granularity: Granularity,
    history: list[Sublayer],
    tiny_model: TinyModel,
    tiny_tokenizer: TinyTokenizer,
) -> None:
    tokenizer, stack = tiny_tokenizer(), SublayerStack(tiny_model(family))
    stack.drop(*history)
    found = scan(stack, [collate(encoded(tokenizer))], granularity, measures=("norm", "similarity"))
    assert found.accuracy is None and found.norm is not None and found.similarity is not None
    for index, candidate in enumerate(found.candidates):
        norm, cosine = by_hand(stack, tokenizer, candidate)
        assert found.norm[index] == pytest.approx(norm, rel=1e-5)
        assert found.similarity[index] == pytest.approx(cosine, rel=1e-5)


# ---- what a scan leaves behind, and what it costs --------------------------------------------


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
@every_family
def test_a_scan_changes_nothing(
    family: str, training: bool, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    model, items = tiny_model(family), encoded(tiny_tokenizer())
    stack = SublayerStack(model)
    stack.drop(*DROPPED)
    model.train(training)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    hooks, modules = hooks_of(model), [type(module) for module in model.modules()]
    first = scan(stack, [collate(items)], "pair", NAMES, progress=True)
    assert scan(stack, [collate(items)], "pair", NAMES) == first
    assert stack.history == DROPPED
    assert hooks_of(model) == hooks
    assert [type(module) for module in model.modules()] == modules
    assert all(module.training == training for module in model.modules())
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()  # nothing is left in inference mode


@pytest.mark.parametrize(
    ("module", "call"),
    [("model.embed_tokens", 1), ("model.layers.2", 1), ("model.layers.2", 4), ("lm_head", 1)],
)
def test_an_interrupted_scan_leaves_the_model_as_it_was(
    module: str, call: int, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    """In the pass of the whole model, with a candidate bypassed, and at the LM head."""
    model = tiny_model("llama").train()
    stack = SublayerStack(model)
    calls: list[int] = []

    def interrupt(*_args: Any) -> None:
        calls.append(len(stack))
        if len(calls) == call:
            raise KeyboardInterrupt

    model.get_submodule(module).register_forward_hook(interrupt)
    hooks = hooks_of(model)
    with pytest.raises(KeyboardInterrupt):
        scan(stack, [collate(encoded(tiny_tokenizer()))], max_tokens=1)
    assert list(stack) == ALL and hooks_of(model) == hooks
    assert all(module.training for module in model.modules())


def test_each_candidate_starts_from_its_own_cached_state(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack, items = SublayerStack(tiny_model("llama")), encoded(tiny_tokenizer())
    calls: list[int] = []
    for index, block in enumerate(stack.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    scan(stack, [collate(items)], measures=("norm", "similarity"))
    assert calls == [0, 1, 2, 3]
    calls.clear()
    scan(stack, [collate(items)], max_tokens=1)
    # without 0.attention, 0.mlp still runs; without 0.mlp, nothing of block 0 does
    plain, attentions = [0, 1, 2, 3], [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]
    mlps = [[1, 2, 3], [2, 3], [3], []]
    runs = [run for pair in zip(attentions, mlps, strict=True) for run in pair]
    assert calls == plain + list(itertools.chain(*runs))
    stack.drop(ATTENTIONS[2], MLPS[2])
    calls.clear()
    scan(stack, [collate(items)], max_tokens=1)  # an empty block is not run again
    runs = [[0, 1, 3], [1, 3], [1, 3], [3], [3], []]
    assert calls == plain + list(itertools.chain(*runs))


def test_candidates_share_passes_as_far_as_tokens_allow(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    batch = collate(encoded(tiny_tokenizer()))
    calls: list[tuple[int, int]] = []
    for index, block in enumerate(stack.blocks):
        block.register_forward_hook(
            lambda _, args, output, index=index: calls.append((index, len(output) // len(batch)))
        )
    scan(stack, [batch], max_tokens=10 * batch.input_ids.numel())
    plain = [(index, 1) for index in range(4)]
    # 0.attention is out in block 0; in block 1, where 1.attention is, it goes on with 0.mlp
    assert calls == [*plain, (0, 1), (1, 1), (1, 2), (2, 1), (2, 4), (3, 1), (3, 6)]
    calls.clear()
    scan(stack, [batch], max_tokens=3 * batch.input_ids.numel() - 1)
    first, second = [(0, 1), (1, 2), (2, 2), (3, 2)], [(1, 1), (2, 2), (3, 2)]
    assert calls == [*plain, *first, *second, (2, 1), (3, 2), (3, 1)]


def test_a_scan_without_statistics_needs_no_items(tiny_model: TinyModel) -> None:
    found = scan(SublayerStack(tiny_model("llama")), [], "block", measures=(), step=3)
    assert len(found.candidates) == found.n_blocks == 4 and found.step == 3
    assert found.statistics == {} and found.accuracy is found.norm is found.similarity is None


# ---- candidates ------------------------------------------------------------------------------


def test_a_scan_of_no_items_is_refused(tiny_model: TinyModel) -> None:
    stack = SublayerStack(tiny_model("llama"))
    with pytest.raises(InputError, match="needs calibration items"):
        scan(stack, [])
    with pytest.raises(InputError, match="needs calibration items"):
        best_first_scan(stack, [], load_scorer("two_step"), lambda scores: [0])


def test_candidates_by_hand(tiny_model: TinyModel) -> None:
    stack = SublayerStack(tiny_model("llama"))
    assert candidates(stack) == [(s,) for s in ALL]
    assert candidates(stack, "pair") == list(itertools.pairwise(ALL))
    assert candidates(stack, "block") == list(zip(ATTENTIONS, MLPS, strict=True))
    stack.drop(*DROPPED)
    assert candidates(stack) == [(s,) for s in ALL if s not in DROPPED]
    # 0.mlp 1.attention | 2.attention 2.mlp 3.attention 3.mlp: two attentions are no pair
    assert candidates(stack, "pair") == [
        (MLPS[0], ATTENTIONS[1]),
        (ATTENTIONS[2], MLPS[2]),
        (MLPS[2], ATTENTIONS[3]),
        (ATTENTIONS[3], MLPS[3]),
    ]
    assert candidates(stack, "block") == [(ATTENTIONS[2], MLPS[2]), (ATTENTIONS[3], MLPS[3])]


def test_parallel_blocks_are_dropped_whole(tiny_model: TinyModel) -> None:
    stack = SublayerStack(tiny_model("gpt_neox"))
    assert (
        candidates(stack, "pair")
        == candidates(stack, "block")
        == [*zip(ATTENTIONS, MLPS, strict=True)]
    )


@settings(max_examples=30)
@given(choose=st.lists(st.integers(0, 6), max_size=4))
def test_dropping_pairs_keeps_the_alternation(choose: list[int], tiny_model: TinyModel) -> None:
    stack = SublayerStack(tiny_model("llama"))
    with ExitStack() as taken:
        for number in choose:
            pairs = candidates(stack, "pair")
            taken.enter_context(stack.bypass(*pairs[number % len(pairs)]))
            kinds = [s.kind for s in stack]
            assert kinds == ["attention", "mlp"] * (len(kinds) // 2)
            if not kinds:
                break

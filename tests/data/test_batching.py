"""Encoded items to padded batches."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import TinyTokenizer
from trimlab.data.batching import (
    TENSORS,
    Batch,
    batches,
    collate,
    length_groups,
    scan_batches,
)
from trimlab.data.capacity import Capacity
from trimlab.data.encoding import EncodedItem, encode
from trimlab.data.items import Item

ITEMS = (
    Item("what is it?", (" an owl", " a", " the other one"), 1),
    Item("where?", (" here",), 0),
    Item("question: 2 - 1 =?\nanswer: ", ("1", "2", "3", "9"), 2),
    Item("", ("the thin man is in",), 0),
    Item("who?", (" the man", " the man in", " the mall"), 1),
)


def _of_length(n: int) -> EncodedItem:
    return EncodedItem((5,) * n, tuple(range(n)), (0,) * n, (n - 1,), (7,), (0,), 0)


@pytest.fixture
def encoded(tiny_tokenizer: TinyTokenizer) -> list[EncodedItem]:
    return [encode(tiny_tokenizer(), item, 256) for item in ITEMS]


def _items(batch: Batch) -> dict[int, EncodedItem]:
    """The items of a batch, by their index in the set that it was taken from."""
    found = {}
    for row, order in enumerate(batch.order.tolist()):
        real, own = batch.token_mask[row], batch.item_index == row
        found[order] = EncodedItem(
            *(tuple(x[row][real].tolist()) for x in (batch.input_ids, batch.positions)),
            continuations=tuple(batch.continuations[row][real].tolist()),
            logit_index=tuple(batch.logit_index[own].tolist()),
            targets=tuple(batch.targets[own].tolist()),
            choice_index=tuple(batch.choice_index[own].tolist()),
            gold=int(batch.gold[row]),
        )
    return found


def test_a_batch_holds_its_items(encoded: list[EncodedItem]) -> None:
    assert _items(collate(encoded)) == dict(enumerate(encoded))
    some = collate(encoded, [3, 0, 2])
    assert some.order.tolist() == [3, 0, 2] and len(some) == 3
    assert _items(some) == {i: encoded[i] for i in (3, 0, 2)}


def test_items_are_padded_on_the_right(encoded: list[EncodedItem]) -> None:
    batch = collate(encoded)
    longest = max(len(item.tokens) for item in encoded)
    assert batch.input_ids.shape == batch.positions.shape == (len(encoded), longest)
    for mask, item in zip(batch.token_mask.tolist(), encoded, strict=True):
        assert mask == [True] * len(item.tokens) + [False] * (longest - len(item.tokens))


def test_scored_positions_and_choice_tokens(encoded: list[EncodedItem]) -> None:
    batch = collate(encoded)
    width = batch.input_ids.shape[1]
    assert batch.n_choices == 4
    assert batch.scored_positions.tolist() == sorted(
        {row * width + index for row, item in enumerate(encoded) for index in item.logit_index}
    )
    assert batch.choice_tokens.tolist() == [
        [item.choice_index.count(k) for k in range(4)] for item in encoded
    ]


def test_some_scored_tokens_by_mask_or_by_index(encoded: list[EncodedItem]) -> None:
    batch = collate(encoded)
    first = batch.choice_index == 0
    for chosen in (first, first.nonzero()[:, 0]):
        part = batch.scoring(chosen)
        assert set(part.choice_index.tolist()) == {0} and len(part) == len(batch)
        assert part.targets.tolist() == batch.targets[first].tolist()


def test_copies_of_the_items_stand_one_after_another(encoded: list[EncodedItem]) -> None:
    batch = collate(encoded)
    twice = batch.repeated(2)
    assert len(twice) == 2 * len(batch)
    for start in (0, len(batch)):
        own = (twice.item_index >= start) & (twice.item_index < start + len(batch))
        assert torch.equal(twice.item_index[own] - start, batch.item_index)
        assert torch.equal(twice.targets[own], batch.targets)
        assert torch.equal(twice.input_ids[start : start + len(batch)], batch.input_ids)


@pytest.mark.parametrize("max_tokens", [1, 20, 40, 60, 1000])
def test_parts_hold_the_items_of_the_batch(encoded: list[EncodedItem], max_tokens: int) -> None:
    indices = [4, 1, 0, 3, 2]
    parts = collate(encoded, indices).parts(max_tokens)
    found = {}
    for part in parts:
        assert part.input_ids.numel() <= max_tokens or len(part) == 1
        assert part.input_ids.shape[1] == part.token_mask.sum(1).max()
        assert part.item_index.tolist() == sorted(part.item_index.tolist())
        found |= _items(part)
    assert found == dict(enumerate(encoded))
    assert sum(map(len, parts)) == len(encoded)


def test_a_copy_on_a_device_reads_nothing_from_it(encoded: list[EncodedItem]) -> None:
    """Tensors on `meta` have no values: whatever reads one raises, as it would wait for a GPU."""
    host = collate(encoded, [4, 1, 0, 3, 2])
    batch = host.to("meta")
    assert batch.input_ids.device.type == "meta" and batch.to("cpu") is host
    assert batch.lengths == [len(encoded[i].tokens) for i in (4, 1, 0, 3, 2)]
    assert (batch.is_tree, batch.n_choices) == (True, 4)
    assert batch.scored_positions.shape == host.scored_positions.shape
    assert batch.scored_positions.device.type == "meta"
    first = host.choice_index == 0
    for mine, its in [
        *zip(host.parts(40), batch.parts(40), strict=True),
        (host.scoring(first), batch.scoring(first)),
        (host.repeated(2), batch.repeated(2)),
    ]:
        assert its.device.type == "meta"
        for name in TENSORS:
            assert getattr(its, name).shape == getattr(mine, name).shape, name
            assert torch.equal(getattr(its.on_host, name), getattr(mine, name)), name


def test_only_items_with_continuations_are_trees(encoded: list[EncodedItem]) -> None:
    assert collate(encoded).is_tree
    assert not collate(encoded, [3]).is_tree  # one choice after nothing is a plain text


@given(lengths=st.lists(st.integers(1, 60), max_size=40), max_tokens=st.integers(1, 200))
def test_batches_partition_the_items(lengths: list[int], max_tokens: int) -> None:
    items = [_of_length(n) for n in lengths]
    groups = batches(items, max_tokens)
    assert sorted(i for group in groups for i in group) == list(range(len(items)))
    flat = [lengths[i] for group in groups for i in group]
    assert flat == sorted(flat, reverse=True)
    for group in groups:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded <= max_tokens or len(group) == 1


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=9), max_tokens=st.integers(1, 300))
def test_no_other_grouping_computes_less(lengths: list[int], max_tokens: int) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(len(g) * max(lengths[i] for i in g) + Capacity().pass_tokens for g in groups)

    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    costs = []
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(order)]
        groups = [order[a:b] for a, b in itertools.pairwise(edges)]
        if all(len(g) == 1 or len(g) * lengths[g[0]] <= max_tokens for g in groups):
            costs.append(cost(groups))
    assert cost(length_groups(lengths, max_tokens)) == min(costs)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(4, 400))
def test_batches_of_a_scan_leave_room_for_candidates(lengths: list[int], max_tokens: int) -> None:
    found = scan_batches([_of_length(n) for n in lengths], max_tokens)
    assert sorted(i for batch in found for i in batch.order.tolist()) == list(range(len(lengths)))
    for batch in found:
        assert 4 * batch.input_ids.numel() <= max_tokens or len(batch) == 1

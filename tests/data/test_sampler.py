"""The order of training batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimlab.data.sampler import LengthBuckets

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=200)
batch_sizes = st.integers(1, 20)
pools = st.integers(1, 8)
seeds = st.integers(0, 5)
epochs = st.integers(0, 50)


def _batches(
    lengths: list[int], batch_size: int, seed: int = 0, epoch: int = 0, pool: int = 16
) -> list[list[int]]:
    return list(LengthBuckets(lengths, batch_size, seed, lambda: epoch, pool))


def _tokens(batches: list[list[int]], lengths: list[int]) -> int:
    """Tokens that the batches compute, padding included."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


@given(lengths, batch_sizes, seeds, epochs, pools)
def test_an_epoch_has_every_item_once(
    lengths: list[int], batch_size: int, seed: int, epoch: int, pool: int
):
    batches = _batches(lengths, batch_size, seed, epoch, pool)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@given(lengths, batch_sizes, pools)
def test_at_most_one_batch_is_not_full(lengths: list[int], batch_size: int, pool: int):
    sampler = LengthBuckets(lengths, batch_size, 0, lambda: 0, pool)
    sizes = sorted(len(batch) for batch in sampler)
    assert len(sizes) == len(sampler)
    assert sizes[1:] == [batch_size] * (len(sizes) - 1)
    assert sizes[0] == (len(lengths) % batch_size or batch_size)


@given(lengths, batch_sizes, seeds, epochs, pools)
def test_the_order_depends_on_seed_and_epoch_alone(
    lengths: list[int], batch_size: int, seed: int, epoch: int, pool: int
):
    """A resumed run repeats the order, whatever epochs its process has iterated before."""
    now = [0]
    sampler = LengthBuckets(lengths, batch_size, seed, lambda: now[0], pool)
    for now[0] in (epoch + 1, epoch):
        found = list(sampler)
    assert found == list(sampler) == _batches(lengths, batch_size, seed, epoch, pool)


def test_the_epoch_is_read_with_the_first_batch():
    """Lightning makes the iterator before it restores the epoch of a checkpoint."""
    now = [0]
    batches = iter(LengthBuckets(list(range(100)), 4, 0, lambda: now[0]))
    now[0] = 3
    assert list(batches) == _batches(list(range(100)), 4, epoch=3)


def test_every_seed_and_epoch_has_another_order():
    orders = [
        _batches(list(range(1, 65)), 4, seed, epoch) for seed in range(4) for epoch in range(8)
    ]
    assert len({str(order) for order in orders}) == len(orders)


def test_the_items_of_a_batch_change_from_epoch_to_epoch():
    lengths = list(range(1, 257))
    first, second = (_batches(lengths, 4, epoch=epoch, pool=4) for epoch in (0, 1))
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}


@given(lengths, st.integers(2, 20), seeds, pools)
def test_one_pool_pads_the_least_that_full_batches_can(
    lengths: list[int], batch_size: int, seed: int, pool: int
):
    whole = -(-len(lengths) // batch_size)  # batches of the data set: all of it is one pool
    least = _batches(lengths, batch_size, seed, pool=whole)
    if len(lengths) % batch_size == 0:  # else a longest item may be alone in the smaller batch
        assert _tokens(least, lengths) <= _tokens(
            _batches(lengths, batch_size, seed, pool=pool), lengths
        )
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cut = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    assert _tokens(least, lengths) == _tokens(cut, lengths)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=12).map(lambda found: 16 * found),
    st.sampled_from([2, 4, 8]),
    seeds,
    pools,
)
def test_buckets_never_pad_more_than_a_shuffle(
    lengths: list[int], batch_size: int, seed: int, pool: int
):
    """A pool of one batch is a plain shuffle; the same shuffle with larger pools pads no more."""
    shuffled = _tokens(_batches(lengths, batch_size, seed, pool=1), lengths)
    assert sum(lengths) <= _tokens(_batches(lengths, batch_size, seed, pool=pool), lengths)
    assert _tokens(_batches(lengths, batch_size, seed, pool=pool), lengths) <= shuffled


def test_buckets_spare_most_of_the_padding_of_a_shuffle():
    lengths = [10 + 7 * i % 250 for i in range(1000)]

    def padding(pool: int) -> float:
        return _tokens(_batches(lengths, 8, pool=pool), lengths) - sum(lengths)

    assert padding(16) < 0.2 * padding(1)
    assert padding(4) < 0.5 * padding(1)


@pytest.mark.parametrize("pool", [1, 16])
def test_batches_do_not_come_in_order_of_length(pool: int):
    lengths = list(range(1, 1025))
    shortest = [min(lengths[i] for i in batch) for batch in _batches(lengths, 4, pool=pool)]
    assert shortest not in (sorted(shortest), sorted(shortest, reverse=True))

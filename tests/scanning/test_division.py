"""The division of a scan: every batch meets every candidate once, whatever the numbers."""

from hypothesis import given
from hypothesis import strategies as st

from trimlab.scanning.division import portions


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 9))
def test_every_candidate_is_run_once_and_the_work_is_even(
    n_batches: int, n_candidates: int, size: int
) -> None:
    divided = [portions(n_batches, n_candidates, rank, size) for rank in range(size)]
    done = sorted((p.batch, c) for mine in divided for p in mine for c in p.bypassed)
    assert done == [(b, c) for b in range(n_batches) for c in range(n_candidates)]
    assert {p.batch for mine in divided for p in mine} == set(range(n_batches))
    work = [sum(len(p.bypassed) for p in mine) for mine in divided]
    assert max(work) - min(work) <= n_batches % size  # a candidate of each batch that is divided

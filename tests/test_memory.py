"""Peak memory of this process."""

import sys

import pytest
import torch

from trimlab.memory import give_back_memory, peak_memory, reset_peak_memory

MEGABYTE = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")


def allocate(megabytes: int) -> torch.Tensor:
    """A tensor whose pages have been written, so that they are resident."""
    return torch.ones(megabytes * MEGABYTE, dtype=torch.uint8)


@linux
@pytest.mark.skipif(torch.cuda.is_available(), reason="the peak may be a GPU's")
def test_the_peak_grows_with_an_allocation_and_stays_until_it_is_reset() -> None:
    reset_peak_memory()
    before = peak_memory()
    tensor = allocate(200)
    assert peak_memory() >= before + 190 * MEGABYTE
    del tensor
    give_back_memory()
    assert peak_memory() >= before + 190 * MEGABYTE
    reset_peak_memory()
    assert peak_memory() < before + 100 * MEGABYTE


def test_giving_memory_back_changes_no_value() -> None:
    kept, freed = allocate(1), allocate(50)
    del freed
    give_back_memory()
    give_back_memory()
    assert bool((kept == 1).all())
    assert peak_memory() > 0

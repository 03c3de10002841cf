"""The processes of a distributed run, its ranks: what they divide, and what they agree on.

Numbers of a run are decided once, on the first rank, and sent to the others: rounding of different
hardware must not make two ranks drop different sublayers. Without torch.distributed there is one
rank, and nothing here costs anything.
"""

import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from trimlab.errors import FIRST_FAILED, RankError, one_line

Part = TypeVar("Part")
Value = TypeVar("Value")

# A rank waits for as long as another one tests or exports a model. The end of a process is noticed
# at once, since its connections are closed.
PATIENCE = timedelta(days=30)


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """The number of this rank."""
    return dist.get_rank() if _joined() else 0


def is_first() -> bool:
    """Whether this rank is the one that decides and writes."""
    return rank() == 0


def share(parts: Sequence[Part]) -> Sequence[Part]:
    """What this rank has of some parts, which are dealt to the ranks in turn."""
    return parts[rank() :: world_size()]


def gathered(value: Value) -> list[Value]:
    """The values of all ranks, by rank. Tensors must be on the CPU."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_group())
    return values


def gathered_shares(mine: Sequence[Part]) -> list[Part]:
    """All parts in their order, from the shares that `share` has dealt."""
    shares = gathered(list(mine))
    longest = max(map(len, shares))
    return [some[i] for i in range(longest) for some in shares if i < len(some)]


def agreed(value: Value) -> Value:
    """The first rank's value, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_group())
    return values[0]


def on_first(work: Callable[[], Value]) -> Value:
    """Does something on the first rank alone, while the others wait.

    Args:
        work: What to do. It must not communicate with other ranks.

    Returns:
        Its result, on every rank.

    Raises:
        RankError: On the other ranks, where it fails on the first, which raises the error itself.
    """
    if world_size() == 1:
        return work()
    value, failure = None, None
    if is_first():
        try:
            value = work()
            pickle.dumps(value)  # what cannot be sent would leave the others waiting
        except BaseException as error:
            agreed((None, one_line(error)))
            raise
    value, failure = agreed((value, failure))
    if failure is not None:
        raise RankError(f"{FIRST_FAILED}: {failure}")
    return value  # type: ignore[return-value]


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over the ranks, in place and on its device."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@cache
def _group() -> Any:
    """A group for objects, on CPUs: a group of GPUs has timeouts that a long test would exceed."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)

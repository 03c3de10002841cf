"""The division of a scan among the processes of a run.

Batches, longest first, are dealt back and forth. Those that do not go round are divided by
candidate: every process caches its own forward pass of such a batch, a small part of the work.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from trimlab import ranks


class BatchStatistics(NamedTuple):
    """The statistics of one batch, by name.

    Attributes:
        output: Sums of the output statistics.  # (C, S) each
        bypass: Values of the bypass statistics, for some or all candidates.  # (S, C', B) each
    """

    output: dict[str, Tensor]
    bypass: dict[str, Tensor]

    def cpu(self) -> "BatchStatistics":
        """A copy on the CPU; waits for a GPU."""
        output, bypass = ({name: x.cpu() for name, x in part.items()} for part in self)
        return BatchStatistics(output, bypass)


class Portion(NamedTuple):
    """Work of one process.

    Attributes:
        batch: Index of a batch.
        bypassed: Indices of the candidates that it is run without, one after another.
    """

    batch: int
    bypassed: range


def portions(n_batches: int, n_candidates: int, rank: int, world_size: int) -> list[Portion]:
    """What one process does of a scan.

    Args:
        n_batches: Number of batches.
        n_candidates: Number of candidates.
        rank: The process.
        world_size: Number of processes.
    """
    dealt = n_batches - n_batches % world_size
    turn = [*range(world_size), *reversed(range(world_size))]
    owners = [turn[batch % len(turn)] for batch in range(dealt)]
    mine = [Portion(b, range(n_candidates)) for b, owner in enumerate(owners) if owner == rank]
    some = range(rank, n_candidates, world_size)
    return mine + [Portion(batch, some) for batch in range(dealt, n_batches)]


def combined(
    mine: Sequence[BatchStatistics], n_batches: int, n_candidates: int
) -> list[BatchStatistics]:
    """The statistics of all batches in their order, on every process.

    Args:
        mine: What this process has found, in the order of its `portions`.
        n_batches: Number of batches.
        n_candidates: Number of candidates.
    """
    size = ranks.world_size()
    if size == 1:
        return list(mine)
    of_batch: list[list[tuple[Portion, BatchStatistics]]] = [[] for _ in range(n_batches)]
    for rank, found in enumerate(ranks.gathered([part.cpu() for part in mine])):
        done = portions(n_batches, n_candidates, rank, size)
        for portion, part in zip(done, found, strict=True):
            of_batch[portion.batch].append((portion, part))
    return [_joined(parts, n_candidates) for parts in of_batch]


def _joined(parts: Sequence[tuple[Portion, BatchStatistics]], n_candidates: int) -> BatchStatistics:
    """The statistics of a batch from those that several processes have of some candidates."""
    first = parts[0][1]
    bypass: dict[str, Tensor] = {}
    for portion, part in parts:
        for name, values in part.bypass.items():  # (S, C', B)
            shape = len(values), n_candidates, values.shape[2]
            whole = bypass.setdefault(name, values.new_empty(shape))
            whole[:, list(portion.bypassed)] = values
    return BatchStatistics(first.output, bypass)

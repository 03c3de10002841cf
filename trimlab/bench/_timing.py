"""Time and peak memory of candidates that run alternately in one process."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from trimlab.memory import peak_memory, release_memory, reset_peak_memory

# One side of a benchmark. A call prepares one turn, untimed, and returns the timed function.
BenchmarkCandidate = Callable[[], Callable[[], Any]]


@dataclass
class Turns:
    """Measured turns of one candidate.

    Attributes:
        seconds: Time of each turn.
        peak_bytes: Peak memory of each turn, see `memory.peak_memory`.
        result: Return value of the last turn.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        """Median time of a turn in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest turn in seconds; there are too few turns for quartiles."""
        return max(self.seconds) - min(self.seconds)

    @property
    def peak(self) -> int:
        """Largest peak memory of a turn in bytes."""
        return max(self.peak_bytes)


def time_alternately(
    candidates: Mapping[str, BenchmarkCandidate], repeats: Mapping[str, int]
) -> dict[str, Turns]:
    """Times candidates alternately, so that other load on the machine affects all of them alike.

    Args:
        candidates: Candidates by name.
        repeats: Number of turns of each.
    """
    turns = {name: Turns() for name in candidates}
    for turn in range(max(repeats.values())):
        for name, prepare in candidates.items():
            if turn < repeats[name]:
                _take_turn(turns[name], prepare)
    return turns


def _take_turn(turns: Turns, prepare: BenchmarkCandidate) -> None:
    turns.result = None
    release_memory()  # memory that the previous turn's model fills has no room for another
    run = prepare()
    release_memory()  # the peak would otherwise include the leftovers of the preparation
    reset_peak_memory()
    _synchronise()
    start = time.perf_counter()
    turns.result = run()
    _synchronise()
    turns.seconds.append(time.perf_counter() - start)
    turns.peak_bytes.append(peak_memory())


def _synchronise() -> None:
    """Waits for the GPU, if the process has used one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()

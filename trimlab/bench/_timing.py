"""Turns that alternate: what each took, in time and memory."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from trimlab.evaluation.speed import synchronise
from trimlab.memory import give_back_memory, peak_memory, reset_peak_memory

# What a turn does: `prepare()` is not timed and returns what is.
Contender = Callable[[], Callable[[], Any]]


@dataclass
class Turns:
    """What a contender's turns took.

    Attributes:
        seconds: Time of each turn.
        peak_bytes: Peak memory in each turn, see `memory.peak_memory`.
        result: What the last turn returned.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    result: Any = None

    @property
    def median(self) -> float:
        """Median seconds of a turn."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest less fastest turn, in seconds: there are too few turns for quartiles."""
        return max(self.seconds) - min(self.seconds)

    @property
    def peak(self) -> int:
        """Largest peak of a turn, in bytes."""
        return max(self.peak_bytes)


def race(contenders: Mapping[str, Contender], turns: Mapping[str, int]) -> dict[str, Turns]:
    """Lets contenders take turns, so that what else the machine does hits all of them alike.

    Args:
        contenders: Contenders by name.
        turns: How many turns each takes.
    """
    results = {name: Turns() for name in contenders}
    for turn in range(max(turns.values())):
        for name, prepare in contenders.items():
            if turn < turns[name]:
                _take_turn(results[name], prepare)
    return results


def _take_turn(turns: Turns, prepare: Contender) -> None:
    turns.result = None
    run = prepare()
    gc.collect()
    give_back_memory()  # a peak would else count what the turn before left
    reset_peak_memory()
    synchronise(device())
    start = time.perf_counter()
    turns.result = run()
    synchronise(device())
    turns.seconds.append(time.perf_counter() - start)
    turns.peak_bytes.append(peak_memory())


def device() -> torch.device:
    """Where races are run, in float32: on a GPU where there is one, as the Trainers do."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

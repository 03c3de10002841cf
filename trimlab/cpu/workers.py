"""Several passes at once: on a CPU, each lane has cores of its own.

Where all cores share every product of a pass, each product ends when the slowest of them does, and
what is too small to share is done by one. With a pass each they wait for one another once, in the
end. Passes register hooks and bypass sublayers, so every lane has modules of its own around the
same weights.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from trimlab.model.sublayers import SublayerStack

MAX_LANES = 4  # each has the states and logits of a pass in memory; more than two are not measured


Part = TypeVar("Part")


Result = TypeVar("Result")


class Lanes:
    """What runs passes of a model side by side. Made by `lanes`.

    Args:
        stacks: The model, once for every lane.
        threads: Threads of all lanes together.

    Attributes:
        n: How many passes run at once.
    """

    def __init__(self, stacks: Sequence[SublayerStack], threads: int):
        self.n = len(stacks)
        self._stacks, self._closing = stacks, False
        self._idle: SimpleQueue[SublayerStack] = SimpleQueue()
        for stack in stacks:
            self._idle.put(stack)
        self._pool = ThreadPoolExecutor(
            self.n, initializer=torch.set_num_threads, initargs=(threads // self.n,)
        )

    def map(
        self, work: Callable[[SublayerStack, Part], Result], parts: Sequence[Part]
    ) -> Iterator[Result]:
        """Results of `work(stack, part)` for all parts, in their order, without gradients.

        Nothing is begun before the first result is asked for, and nothing else may be mapped until
        the last has been given.

        Args:
            work: What is done with a part, on the stack that it is given and on no other. It must
                not change what other parts read.
            parts: The parts, best with the longest first. A single one has all threads.

        Raises:
            Exception: What `work` raised for the first part, in their order, for which it did.
        """
        if self.n == 1 or len(parts) == 1:
            for part in parts:
                with torch.inference_mode():
                    result = work(self._stacks[0], part)
                yield result
            return

        def run(part: Part) -> Result:
            stack = self._idle.get()
            try:
                with torch.inference_mode():  # which each thread has to say for itself
                    return work(stack, part)
            finally:
                self._idle.put(stack)

        yield from self._pool.map(run, parts)

    def check(self) -> None:
        """For long work: ends it where nobody waits for its result any more.

        Raises:
            CancelledError: The lanes are being closed.
        """
        if self._closing:
            raise CancelledError

    def close(self) -> None:
        """Waits for what has begun, and leaves out the rest."""
        self._closing = True
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def lanes(stack: SublayerStack) -> Iterator[Lanes]:
    """Opens lanes for passes of a model: on a CPU up to four, if torch's threads can be shared out.

    Elsewhere there is one, which does one part after another. The model must stay as it is while
    they are open.

    Args:
        stack: The model.
    """
    threads, n = torch.get_num_threads(), 1
    if stack.model.device.type == "cpu":
        n = max(n for n in range(1, MAX_LANES + 1) if threads % n == 0)
    twins = [_twin(stack) for _ in range(n - 1)]
    open_lanes = Lanes([stack, *twins], threads)
    try:
        yield open_lanes
    finally:
        try:
            open_lanes.close()
        finally:
            for twin in twins:  # a hook refers back to its stack; weights dropped later must go
                twin.model._forward_pre_hooks.clear()
            if n > 1:
                torch.set_num_threads(threads)  # what threads that start from now on take


def _twin(stack: SublayerStack) -> SublayerStack:
    """The same stack with modules of its own around the same parameters and buffers."""
    shared = itertools.chain(stack.model.parameters(), stack.model.buffers())
    return copy.deepcopy(stack, {id(tensor): tensor for tensor in shared})

"""Several passes at once: on a CPU, each core has one of its own.

Where all cores share every product of a pass, each product ends when the slowest of them does, and
what is too small to share is done by one. With a pass each they wait for one another once, in the
end. Passes register hooks and bypass sublayers, so every lane has modules of its own around the
same weights.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from trimlab.sublayers import SublayerStack

MAX_LANES = 4  # each has the states and logits of a pass in memory; more than two are not measured

Part = TypeVar("Part")
Result = TypeVar("Result")


class Lanes:
    """What runs passes of a model side by side. Made by `lanes`.

    Attributes:
        n: How many passes run at once.
    """

    def __init__(self, stack: SublayerStack, twins: Sequence[SublayerStack], threads: int):
        self.n = 1 + len(twins)
        self._stack = stack
        self._idle: SimpleQueue[SublayerStack] = SimpleQueue()
        for own in (stack, *twins):
            self._idle.put(own)
        self._pool = ThreadPoolExecutor(
            self.n, initializer=torch.set_num_threads, initargs=(max(1, threads // self.n),)
        )

    def map(
        self, work: Callable[[SublayerStack, Part], Result], parts: Sequence[Part]
    ) -> Iterator[Result]:
        """Results of `work(stack, part)` for all parts, in their order, without gradients.

        Args:
            work: What is done with a part, on the stack that it is given and on no other. It must
                not change what other parts read.
            parts: The parts, best with the longest first.

        Raises:
            Exception: What `work` raised first; parts that have not begun are left out.
        """
        if self.n == 1 or len(parts) == 1:
            for part in parts:
                with torch.inference_mode():
                    result = work(self._stack, part)
                yield result
            return

        def run(part: Part) -> Result:
            own = self._idle.get()
            try:
                with torch.inference_mode():  # which each thread has to say for itself
                    return work(own, part)
            finally:
                self._idle.put(own)

        yield from self._pool.map(run, parts)

    def close(self) -> None:
        """Waits for passes that have begun."""
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def lanes(stack: SublayerStack) -> Iterator[Lanes]:
    """Opens lanes for passes of a model: one for each of torch's threads on a CPU, up to four.

    Elsewhere there is one, which does one part after another. The model must stay as it is while
    they are open.

    Args:
        stack: The model.
    """
    threads = torch.get_num_threads()
    n = min(threads, MAX_LANES) if stack.model.device.type == "cpu" else 1
    open_lanes = Lanes(stack, [_twin(stack) for _ in range(n - 1)], threads)
    try:
        yield open_lanes
    finally:
        open_lanes.close()
        if n > 1:
            torch.set_num_threads(threads)  # what threads that start from now on take


def _twin(stack: SublayerStack) -> SublayerStack:
    """The same stack with modules of its own around the same parameters and buffers."""
    shared = itertools.chain(stack.model.parameters(), stack.model.buffers())
    return copy.deepcopy(stack, {id(tensor): tensor for tensor in shared})

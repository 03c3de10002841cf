"""Several passes at once: on a CPU, each worker has cores of its own.

Where all cores share every product of a pass, each product ends when the slowest of them does, and
what is too small to share is done by one. With a pass each they wait for one another once, in the
end. Passes register hooks and bypass sublayers, so every worker has modules of its own around the
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

# each has the states and logits of a pass in memory; more than two are not measured
MAX_WORKERS = 4


Part = TypeVar("Part")


Result = TypeVar("Result")


class Workers:
    """What runs passes of a model side by side. Made by `workers`.

    Args:
        stacks: The model, once for every worker.
        threads: Threads of all workers together.

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
            CancelledError: The workers are being closed.
        """
        if self._closing:
            raise CancelledError

    def close(self) -> None:
        """Waits for what has begun, and leaves out the rest."""
        self._closing = True
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def open_workers(stack: SublayerStack) -> Iterator[Workers]:
    """Opens workers for passes of a model: on a CPU as many as torch's threads can be shared among.

    Elsewhere there is one, which does one part after another. The model must stay as it is while
    they are open.

    Args:
        stack: The model.
    """
    threads, n = torch.get_num_threads(), 1
    if stack.model.device.type == "cpu":
        n = max(n for n in range(1, MAX_WORKERS + 1) if threads % n == 0)
    replicas = [_replica(stack) for _ in range(n - 1)]
    opened = Workers([stack, *replicas], threads)
    try:
        yield opened
    finally:
        try:
            opened.close()
        finally:
            # a hook refers back to its stack; weights dropped later must go
            for replica in replicas:
                replica.model._forward_pre_hooks.clear()
            if n > 1:
                torch.set_num_threads(threads)  # what threads that start from now on take


def _replica(stack: SublayerStack) -> SublayerStack:
    """The same stack with modules of its own around the same parameters and buffers."""
    shared = itertools.chain(stack.model.parameters(), stack.model.buffers())
    return copy.deepcopy(stack, {id(tensor): tensor for tensor in shared})

"""Several forward passes at once: on a CPU, each worker has cores of its own.

If all cores share every product of one pass, they wait for the slowest of them after each, and
operations too small to be shared run on one core. With a pass for each worker they wait once, at
the end. Passes register hooks and bypass sublayers, so every worker has its own modules around the
same weights.
"""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from trimlab.model.sublayers import SublayerStack

# each holds the states and logits of a pass in memory; more than two have not been measured
MAX_WORKERS = 4

Part = TypeVar("Part")
Result = TypeVar("Result")


class Workers:
    """Threads that run passes of a model at the same time, see `open_workers`.

    Args:
        stacks: The model, and a replica for every further worker.
        threads: Number of torch's threads, for all workers together.

    Attributes:
        n: Number of workers.
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

        Work starts when the first result is asked for. Another `map` may start when the last
        result has been given. On a GPU, the next part is queued before a result is given: it is
        computed while the caller waits for that result.

        Args:
            work: A function of a stack and a part. It uses no other stack, and changes nothing
                that other parts read.
            parts: The parts, best with the longest first. A single part has all threads.

        Raises:
            Exception: The exception that `work` raised, for the first part that failed.
        """
        if self.n == 1 or len(parts) == 1:
            ahead = int(self._stacks[0].model.device.type != "cpu")
            found: deque[Result] = deque()
            for part in parts:
                with torch.inference_mode():
                    found.append(work(self._stacks[0], part))
                if len(found) > ahead:
                    yield found.popleft()
            yield from found
            return

        def run(part: Part) -> Result:
            stack = self._idle.get()
            try:
                with torch.inference_mode():  # the mode belongs to a thread
                    return work(stack, part)
            finally:
                self._idle.put(stack)

        yield from self._pool.map(run, parts)

    def raise_if_closing(self) -> None:
        """Ends long work whose result is not needed any more; to be called now and then.

        Raises:
            CancelledError: The workers are being closed.
        """
        if self._closing:
            raise CancelledError

    def close(self) -> None:
        """Waits for running work, and cancels the rest."""
        self._closing = True
        self._pool.shutdown(cancel_futures=True)


def workers_for(threads: int) -> int:
    """Number of workers on a CPU, which divide torch's threads evenly.

    Args:
        threads: Number of torch's threads.
    """
    return max(n for n in range(1, MAX_WORKERS + 1) if threads % n == 0)


@contextmanager
def open_workers(stack: SublayerStack, most: int = MAX_WORKERS) -> Iterator[Workers]:
    """Opens workers for passes of a model.

    On a CPU, torch's threads are divided evenly among up to `MAX_WORKERS` of them. On other
    devices there is one, which runs one part after another.

    Args:
        stack: The model, which must not be changed while the workers are open.
        most: Most workers.
    """
    threads, n = torch.get_num_threads(), 1
    if stack.model.device.type == "cpu":
        n = min(most, workers_for(threads))
    replicas = [_replica(stack) for _ in range(n - 1)]
    opened = Workers([stack, *replicas], threads)
    try:
        yield opened
    finally:
        try:
            opened.close()
        finally:
            # a hook refers to its stack, which would keep weights that are dropped later
            for replica in replicas:
                replica.model._forward_pre_hooks.clear()
            if n > 1:
                torch.set_num_threads(threads)  # for threads that start from now on


def _replica(stack: SublayerStack) -> SublayerStack:
    """A copy of the stack that shares its parameters and buffers."""
    shared = itertools.chain(stack.model.parameters(), stack.model.buffers())
    return copy.deepcopy(stack, {id(tensor): tensor for tensor in shared})

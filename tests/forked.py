"""Calls in a process of their own, forked from this one.

The child has all that this process has imported, so that it begins at once. Its output, exit code,
signals and working folder are its own. What is said of a new interpreter (which modules it imports,
another hash seed) is tested in a new one.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from tqdm import tqdm


class Ended(NamedTuple):
    """The end of a child.

    Attributes:
        code: Its exit code, or minus the number of the signal that ended it.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int
    out: str
    err: str


class Forked:
    """A call in a child process, which has begun.

    Args:
        function: The function. An exception is printed and ends the child with code 1, a
            `SystemExit` with its own code.
        *arguments: Its arguments.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._files = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115  # until `wait`
        self.process = multiprocessing.get_context("fork").Process(
            target=_call, args=(self._files, function, arguments)
        )
        self.process.start()

    def wait(self) -> Ended:
        """Waits for the end of the child."""
        self.process.join()
        assert self.process.exitcode is not None
        written = []
        for file in self._files:
            with file:
                file.seek(0)
                written.append(file.read())
        return Ended(self.process.exitcode, *written)


def _call(
    files: tuple[IO[str], IO[str]], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # as in a new process, whatever a test has left in this one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # those of tqdm are shared with other children, and one that is killed would keep them for ever
    for kind in _with_subclasses(tqdm):
        kind.set_lock(threading.RLock())
    # the descriptors too: libraries and children of this process write to these
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    function(*arguments)


def _with_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """A class, and all that are made of it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from _with_subclasses(derived)

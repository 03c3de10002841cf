"""Every change of a file below a folder, told before it happens; and the ways to die there."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# the places of paths among the arguments of audit events that change files, and of their folders'
# descriptors
CHANGES = {
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.link": ((0, 2), (1, 3)),
    "os.truncate": ((0, None),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SMALLEST = 40  # bytes of a file that is cut in two: few enough for a row of a record
KILLED, CUT = -signal.SIGKILL, -signal.SIGXFSZ  # exit codes of the two ways to die


@dataclass(frozen=True)
class Write:
    """A change of a file: what is about to happen, and to which path below the folder."""

    what: str
    path: Path


class Writes:
    """Calls a function before every change of a file below a folder, in this process.

    For a child process, since nobody can take an audit hook away again.

    Args:
        folder: The folder.
        before: Called with the number of the change, from 0, and the change.
    """

    def __init__(self, folder: Path, before: Callable[[int, Write], None]):
        self.folder, self.before, self.count = folder, before, 0
        sys.addaudithook(self._on_event)
        fsync = os.fsync

        def fsync_with_event(file: int) -> None:
            self._tell("fsync", _of_descriptor(file))
            fsync(file)

        os.fsync = fsync_with_event

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and isinstance(path, str | bytes | os.PathLike):
                self._tell("open", Path(os.fsdecode(path)))
        elif event in CHANGES:
            for place, folder in CHANGES[event][:1]:  # of a rename, what it moves
                path = Path(os.fsdecode(arguments[place]))
                base = -1 if folder is None else arguments[folder]
                if base is not None and base >= 0:
                    path = _of_descriptor(base) / path
                self._tell(event.removeprefix("os."), path)

    def _tell(self, what: str, path: Path) -> None:
        path = path.absolute()
        if path.is_relative_to(self.folder):
            number, self.count = self.count, self.count + 1
            self.before(number, Write(what, path.relative_to(self.folder)))


def _of_descriptor(file: int) -> Path:
    return Path(f"/proc/self/fd/{file}").readlink()


def die(*_args: Any) -> None:
    """As kill -9 does it: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_next_write(path: Path) -> None:
    """Lets the kernel end this process in the middle of a write, after some bytes of it."""
    size = path.stat().st_size if path.exists() and not path.name.endswith(".part") else 0
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + SMALLEST, resource.RLIM_INFINITY))

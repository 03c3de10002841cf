"""The interface of launchers.

A launcher is one file in this folder that defines one subclass of `Launcher`; the file's name is
the launcher's name. The arguments of its constructor but `jobs` are the options
`--<launcher>.<argument>` of `trimlab sweep`. A launcher starts fits and says when they have ended:
what they find is in their run folders, whoever started them.
"""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimlab.plugins import plugin_class, plugin_module

LAUNCHERS = "trimlab.runs.launchers"


@dataclass(frozen=True)
class Fit:
    """One run to be made: `trimlab fit` in a process of its own.

    Attributes:
        run: Id of the run.
        command: Command line.
        log: File that its output is appended to.
        lock: File descriptor of the run's lock. A process on this machine inherits it, so that the
            run stays locked if the sweep is killed and cannot end the process (SIGKILL).
    """

    run: str
    command: Sequence[str]
    log: Path
    lock: int


@dataclass(frozen=True)
class Ended:
    """The end of a fit.

    Attributes:
        code: Exit code; 0 for a finished run.
        seconds: Its time, or None where it is unknown.
    """

    code: int
    seconds: float | None = None


class Job(ABC):
    """A fit that a launcher has started."""

    @abstractmethod
    def poll(self) -> Ended | None:
        """The end of the fit, or None while it is running or waits for a machine."""

    def waits(self) -> bool:
        """Whether it still waits for a machine."""
        return False


class Launcher(ABC):
    """Starts fits.

    Attributes:
        at_once: Largest number of fits that run at the same time.
        max_queued: Largest number of fits that it takes: a cluster has a queue of its own.
        per_machine: Number of fits that share a machine: a fit's time depends on it.
        poll_seconds: Polling interval in seconds.
    """

    at_once: int
    max_queued: int
    per_machine: int = 1
    poll_seconds: float = 0.2

    @abstractmethod
    def __init__(self, jobs: int | None = None):
        """Checks the options.

        Args:
            jobs: Largest number of fits at the same time; None for the launcher's default.

        Raises:
            InputError: They cannot work here.
        """

    @abstractmethod
    def start(self, fits: Sequence[Fit]) -> Sequence[Job]:
        """Starts fits.

        Args:
            fits: At most `max_queued`, together with those that have not ended.

        Returns:
            A job for each.

        Raises:
            InputError: None could be started.
        """

    @abstractmethod
    def stop(self, jobs: Sequence[Any]) -> None:
        """Ends fits, and waits for their end. The runs go on from their checkpoints later.

        Args:
            jobs: Jobs that `start` returned.
        """


def launcher_class(name: str) -> type[Launcher]:
    """The launcher of a name.

    Raises:
        InputError: There is none.
    """
    return plugin_class(plugin_module(LAUNCHERS, name, "launcher"), Launcher)


def start_process(
    fit: Fit,
    environment: Mapping[str, str],
    *,
    inherited: Sequence[int] = (),
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a fit in a session of its own: Ctrl-C in a terminal does not reach it.

    Args:
        fit: The fit.
        environment: Its environment.
        inherited: File descriptors that it inherits.
        folder: Folder that it is started in; the present one if left out.
    """
    with fit.log.open("ab") as log:
        return subprocess.Popen(
            fit.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"TQDM_MININTERVAL": "5", **environment},
            cwd=folder,
            pass_fds=inherited,
            start_new_session=True,
        )


def end_process(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Interrupts a process as Ctrl-C does, so that it saves its state, and kills it if need be.

    For signal handlers, too: it does not take the process's exit code from whoever waits for it.

    Args:
        process: A process that `start_process` started.
        seconds: Longest time that it has.
    """
    end = time.monotonic() + seconds
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process.pid, signal.SIGINT)
        while time.monotonic() < end:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.1)
    kill_process(process)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that `start_process` started, and its children; it may be killed any time."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

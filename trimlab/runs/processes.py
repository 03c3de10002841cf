"""The processes of one run on this machine: started together, and ended together.

`trimlab fit` with several devices starts one process for each and waits for them. A process that
ends early would leave the others waiting for it, so it ends the run. Where a scheduler starts the
processes (srun, torchrun), it also ends them.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, Any

import lightning as L
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import ParallelStrategy

from trimlab.errors import FIRST_FAILED, LOST, RankError

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # in which the others say why they end, too


def processes_to_start(trainer: L.Trainer) -> int:
    """Number of processes that a run needs on this machine and nobody has started; 0: none.

    Args:
        trainer: A trainer of the run.
    """
    strategy = trainer.strategy
    if trainer.world_size == 1 or not isinstance(strategy, ParallelStrategy):
        return 0
    assert strategy.cluster_environment is not None
    started = strategy.cluster_environment.creates_processes_externally
    return 0 if started else trainer.num_devices


def run_processes(command: Sequence[str], n: int) -> None:
    """Runs a command in several processes, which find their rank in the environment.

    The first one has this process's output; what another one says is shown where it is the first
    that fails.

    Args:
        command: The command.
        n: Number of processes.

    Raises:
        RankError: One has failed. Its code is that of the first that has: 1 for a signal.
    """
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    threads = str(max(1, (os.cpu_count() or 1) // n))
    common |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | os.environ
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files, _handed_on(started):
        unseen = [files.enter_context(TemporaryFile()) for _ in range(n)]
        try:
            for rank in range(n):
                # in a session of its own: Ctrl-C in a terminal comes from here, once
                started.append(
                    subprocess.Popen(
                        command,
                        env=common | {"LOCAL_RANK": str(rank)},
                        stderr=unseen[rank] if rank else None,
                        stdout=subprocess.DEVNULL if rank else None,
                        start_new_session=True,
                    )
                )
            failed = _first_failed(started)
            if failed is not None:
                _wait(started, GRACE_SECONDS)
                raise _error(failed, [p.poll() for p in started], unseen)
        finally:
            for process in started:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _first_failed(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Waits until all have ended well, or one has not: its rank."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(POLL_SECONDS)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Waits for the end of all, at most so long."""
    end = time.monotonic() + seconds
    while any(p.poll() is None for p in processes) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _error(failed: int, codes: Sequence[int | None], unseen: Sequence[IO[bytes]]) -> RankError:
    """Why a run of several processes has ended; without a message where the first has said it.

    Args:
        failed: The process that ended first.
        codes: Exit codes of all, None where one was still running.
        unseen: What each has said, but the first one, which everybody has seen.
    """
    if codes[0] == 2:  # wrong input, which every process finds
        return RankError(code=2)
    killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
    causes = {rank: cause for rank, file in enumerate(unseen) if (cause := _cause(file))}
    failed = [*killed, *causes, failed][0]  # others end because of that one
    code = codes[failed] or 1
    if failed == 0 and code > 0:
        return RankError(code=code)
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    why = causes.get(failed, why)
    return RankError(
        f"process {failed} of {len(codes)} has ended ({why}), and with it the run; the same "
        "command goes on from the last checkpoint",
        max(code, 1),
    )


def _cause(said: IO[bytes]) -> str:
    """The error that a process has ended with, unless another one was its cause; or nothing."""
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    errors = [line.removeprefix("trimlab: ") for line in lines if line.startswith("trimlab: ")]
    return next((x for x in errors if LOST not in x and FIRST_FAILED not in x), "")


@contextmanager
def _handed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Hands SIGINT and SIGTERM on to processes, whose end is waited for as ever."""

    def hand_on(number: int, _frame: Any) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    before = {n: signal.signal(n, hand_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The lines of a sweep: one for each run at work, and the time left for all of them."""

import heapq
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trimlab.runs.fit_progress import FitWatch
from trimlab.runs.plan import PlannedRun
from trimlab.runs.sweep_queue import Queue, Running, log_file

SHOW_SECONDS = 1.0  # interval at which the run folders are read
PLAIN_SECONDS = 60.0  # between two lines of a run where there is no terminal


class SweepDisplay(AbstractContextManager["SweepDisplay"]):
    """Live lines on a terminal; elsewhere a plain line for a run now and then.

    Args:
        planned: The plan.
        folder: Folder of the run folders.
        seconds: Gives the time that a run takes, or None if it is unknown.
        at_once: Number of runs that are made at the same time.
    """

    def __init__(
        self,
        planned: Sequence[PlannedRun],
        folder: Path,
        seconds: Callable[[PlannedRun], float | None],
        at_once: int,
    ):
        self._numbers = {run.id: number for number, run in enumerate(planned, start=1)}
        self._folder, self._seconds, self._at_once = folder, seconds, at_once
        self._watches: dict[str, FitWatch] = {}  # of the fits at work, by run
        self._said: dict[str, tuple[str, float]] = {}  # last phase and its time, by run
        self._shown = -math.inf
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, transient=True, refresh_per_second=2)

    def __enter__(self) -> "SweepDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def started(self, runs: Sequence[PlannedRun | Running], queue: Queue) -> None:
        """Says that runs begin, or have been made already."""
        if not runs:
            return
        left = duration(self._left(queue, self._at_work(queue)))
        for begun in runs:
            run = begun.run if isinstance(begun, Running) else begun
            self._say(f"{self._name(run)} ({run.id}); left: {left}")

    def failed(self, run: PlannedRun, why: str) -> None:
        """Says that a run has failed, and prints the end of its output."""
        for line in last_lines(log_file(run, self._folder)):
            self._say(f"  {line}")
        self._say(f"run {run.id} failed: {why}")

    def show(self, queue: Queue) -> None:
        """Shows the runs at work, and the time left for all, at most once a second."""
        if time.perf_counter() - self._shown < SHOW_SECONDS:
            return
        self._shown = time.perf_counter()
        if self._console.is_terminal:
            self._live.update(self._table(queue))
            return
        at_work = self._at_work(queue)
        for run, watch in at_work:
            progress = watch.progress
            phase, last = self._said.setdefault(run.id, ("", self._shown))
            if progress.phase != phase and self._shown - last >= PLAIN_SECONDS:
                self._said[run.id] = (progress.phase, self._shown)
                left, in_all = duration(watch.left), duration(self._left(queue, at_work))
                self._say(f"{self._name(run)}: {progress.phase}, left: {left}; in all: {in_all}")

    # ---- inside -------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _name(self, run: PlannedRun) -> str:
        number = f"[{self._numbers[run.id]}/{len(self._numbers)}]"
        return f"{number} {run.place.experiment}: {run.title}"

    def _at_work(self, queue: Queue) -> list[tuple[PlannedRun, FitWatch]]:
        """The runs that are on a machine, with a watch for each, just updated."""
        runs = [running.run for running in queue.running if not running.job.waits()]
        for run in runs:
            if run.id in self._watches:
                self._watches[run.id].update()
            else:
                self._watches[run.id] = FitWatch(self._folder / run.id, self._seconds(run))
        return [(run, self._watches[run.id]) for run in runs]

    def _left(self, queue: Queue, at_work: Sequence[tuple[PlannedRun, FitWatch]]) -> float | None:
        """Seconds until all runs have ended, or None if the time of one is unknown."""
        begun = {run.id for run, _ in at_work}
        submitted = [running.run for running in queue.running if running.run.id not in begun]
        running = [watch.left for _, watch in at_work]
        waiting = [self._seconds(run) for run in [*submitted, *queue.waiting]]
        known = [seconds for seconds in [*running, *waiting] if seconds is not None]
        if len(known) < len(running) + len(waiting):
            return None
        return time_left(known[: len(running)], known[len(running) :], self._at_once)

    def _table(self, queue: Queue) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=20)
        for _ in range(3):
            grid.add_column(no_wrap=True)
        at_work = self._at_work(queue)
        for run, watch in at_work:
            progress = watch.progress
            bar = ProgressBar(total=1, completed=progress.share, width=20)
            left = f"left: {duration(watch.left)}"
            grid.add_row(self._name(run), bar, progress.phase, duration(watch.elapsed), left)
        to_come = len(queue.waiting) + sum(running.job.waits() for running in queue.running)
        grid.add_row(f"to come: {to_come}; left for all: {duration(self._left(queue, at_work))}")
        return grid


def last_lines(path: Path, number: int = 15) -> list[str]:
    """The last lines of the output of a program, as a terminal shows them.

    Args:
        path: The file; there may be none.
        number: Largest number of lines.
    """
    try:
        text = path.read_bytes()[-20_000:].decode(errors="replace")
    except OSError:
        return []
    # a progress bar writes its line again and again
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return [line for line in lines if line][-number:]


def time_left(running: Sequence[float], waiting: Sequence[float], at_once: int) -> float:
    """Seconds until the end of all runs, which are started in their order as places become free.

    Args:
        running: Remaining seconds of those at work.
        waiting: Seconds of those to come.
        at_once: Number of places.
    """
    idle = max(0, min(at_once - len(running), len(waiting)))
    ends = [*running, *[0.0] * idle]
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends, default=0.0)


def duration(seconds: float | None) -> str:
    """`1 h 20 min`, for people."""
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"{hours}{minutes % 60} min" if seconds >= 60 else f"{seconds:.0f} s"

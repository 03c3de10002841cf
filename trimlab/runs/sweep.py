"""A sweep: makes the runs of a plan that are not done yet, and records what they find.

Every run is `trimlab fit` in a process of its own, started by a launcher, so that one that fails
stops no other. A run that is recorded, for this experiment or for another, is never made again.
"""

import itertools
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

from rich.table import Table

from trimlab.errors import InputError
from trimlab.files import left_parts, locked
from trimlab.records.result_row import ResultRow
from trimlab.records.rows import JsonObject, append_row, append_rows, read_rows
from trimlab.runs.findings import rows_of
from trimlab.runs.folder import RunFolder
from trimlab.runs.launchers._launcher import Ended, Launcher
from trimlab.runs.launchers.local import Local
from trimlab.runs.plan import PlannedRun
from trimlab.runs.sweep_display import SweepDisplay, duration, time_left
from trimlab.runs.sweep_queue import Queue, Running, log_file

TO_DO = ("begun", "to do")  # states of a run that has to be made


class Sweep:
    """Makes the runs of a plan that are not done yet.

    Args:
        planned: The plan.
        results: Folder of the records; the sweep appends to `<experiment>.jsonl`, in the order of
            the plan.
        runs: Folder of the run folders. Beside each of them are its config (`.yaml`) and the output
            of its fits (`.log`).
        keep_models: Keep exported models and checkpoints; gigabytes a run.
        launcher: Where the fits run; on this machine, one at a time, if left out.

    Raises:
        InputError: A record there cannot be read.
    """

    def __init__(
        self,
        planned: Sequence[PlannedRun],
        results: Path,
        runs: Path,
        *,
        keep_models: bool = False,
        launcher: Launcher | None = None,
    ):
        self.planned, self.results, self.runs = planned, results, runs
        self.keep_models, self.launcher = keep_models, launcher or Local()
        self._times: tuple[int, list[JsonObject]] = (0, [])  # of runs so far: bytes and rows
        # the recorded rows, by experiment
        self._recorded = {path.stem: _recorded(path) for path in sorted(results.glob("*.jsonl"))}

    def state(self, run: PlannedRun) -> str:
        """`done`, `measured` (but not recorded for this experiment), `begun` or `to do`."""
        if _complete(self._recorded.get(run.place.experiment, []), run.id):
            return "done"
        if self._known(run):
            return "measured"
        return "begun" if self._folder(run).config.exists() else "to do"

    def seconds(self, run: PlannedRun) -> float | None:
        """The time that a run will take: the median of those of its task, or else of all.

        Those that shared their machine with as many others count before the rest.
        """
        every = [
            row
            for row in self._seconds_so_far()
            if (row["profile"], row["limit"]) == (run.place.profile, run.place.limit)
        ]
        every = [r for r in every if r.get("at_once", 1) == self.launcher.per_machine] or every
        alike = [r for r in every if r["task"] == run.config.get("data", {}).get("task")] or every
        return statistics.median(row["seconds"] for row in alike) if alike else None

    def table(self) -> Table:
        """The plan: what is done, what is left, and the time it will take."""
        table = Table("run", "cell", "state", "time")
        left: list[float | None] = []
        for run in self.planned:
            state, seconds = self.state(run), self.seconds(run)
            to_do = state in TO_DO
            left += [seconds] if to_do else []
            table.add_row(run.id, run.title, state, duration(seconds) if to_do else "")
        known = [seconds for seconds in left if seconds is not None]
        seconds, unknown = time_left([], known, self.launcher.at_once), len(left) - len(known)
        if unknown:
            said = f"{duration(seconds)}, and " if seconds else ""
            table.caption = f"left: {said}{unknown} run{'s' * (unknown > 1)} of unknown time"
        else:
            table.caption = f"left: {duration(seconds)}"
        return table

    def __call__(self, stop: Event | None = None) -> list[PlannedRun]:
        """Makes what is left.

        Args:
            stop: Ends the sweep, and all fits, as soon as it is set.

        Returns:
            The runs that failed.

        Raises:
            KeyboardInterrupt: It was stopped.
        """
        stop = Event() if stop is None else stop
        pending = [run for run in self.planned if self.state(run) != "done"]
        found: dict[str, list[ResultRow]] = {}  # of runs that have ended; empty where one failed
        queue = Queue(pending, self.launcher, self.runs, lambda run: bool(self._known(run)))
        display = SweepDisplay(self.planned, self.runs, self.seconds, self.launcher.at_once)
        with display, closing(queue):
            while not queue.empty:
                started, made = queue.start()
                for run in made:
                    found[run.id] = self._known(run)
                display.started([*made, *started], queue)
                ended = queue.ended()
                for running, end in ended:
                    found[running.run.id] = self._end(running, end, display)
                pending = self._record_in_order(pending, found)
                display.show(queue)
                if not queue.empty and stop.wait(0 if ended else self.launcher.poll_seconds):
                    raise KeyboardInterrupt
        return [run for run in self.planned if found.get(run.id) == []]

    # ---- inside -------------------------------------------------------------------------------

    def _folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.runs / run.id)

    def _known(self, run: PlannedRun) -> list[ResultRow]:
        """The rows of a run that was made already, for this experiment or for another."""
        for rows in self._recorded.values():
            if _complete(rows, run.id):
                return [replace(row, cell=run.place) for row in rows if row.cell.run == run.id]
        folder = self._folder(run)
        summary = folder.read_summary()
        # a fit that was killed while it wrote its page has yet to write it
        done = summary is not None and summary.finished and not left_parts(folder.path)
        return rows_of(run.place, folder) if done else []

    def _end(self, running: Running, end: Ended, display: SweepDisplay) -> list[ResultRow]:
        """What a fit has found, or nothing if it failed; its lock is opened."""
        with running.lock:
            run, folder = running.run, self._folder(running.run)
            try:
                rows = rows_of(run.place, folder) if end.code == 0 else []
            except InputError as error:
                display.failed(run, str(error))
                return []
            if not rows:
                display.failed(run, f"exit code {end.code}; see {log_file(run, self.runs)}")
                return []
            if running.fresh and end.seconds is not None:
                self._keep_seconds(run, rows[0].context.task, end.seconds)
            if not self.keep_models:
                for path in (folder.models, folder.checkpoints):
                    shutil.rmtree(path, ignore_errors=True)
            return rows

    def _seconds_so_far(self) -> list[JsonObject]:
        """The rows of `seconds.jsonl`, which this sweep and others append to."""
        path = self.runs / "seconds.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size != self._times[0]:
            self._times = (size, read_rows(path))
        return self._times[1]

    def _keep_seconds(self, run: PlannedRun, task: str, seconds: float) -> None:
        about = {"run": run.id, "profile": run.place.profile, "limit": run.place.limit}
        about |= {"task": task, "seconds": seconds, "at_once": self.launcher.per_machine}
        append_row(self.runs / "seconds.jsonl", about)

    def _record_in_order(
        self, pending: Sequence[PlannedRun], found: Mapping[str, list[ResultRow]]
    ) -> list[PlannedRun]:
        """Records the runs that have ended, up to the first of the plan that has not.

        Returns:
            The runs that are still to be recorded.
        """
        ended = list(itertools.takewhile(lambda run: run.id in found, pending))
        for run in ended:
            if found[run.id]:
                self._record(run, found[run.id])
        return list(pending[len(ended) :])

    def _record(self, run: PlannedRun, rows: Sequence[ResultRow]) -> None:
        self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / f"{run.place.experiment}.jsonl"
        with locked(path):  # another sweep of the experiment may have recorded it by now
            there = (row for row in read_rows(path) if row.get("run") == run.id)
            if not any(row.get("complete") for row in there):
                append_rows(path, [row.to_row() for row in rows])
        self._recorded.setdefault(run.place.experiment, []).extend(rows)


def _recorded(path: Path) -> list[ResultRow]:
    """The rows of an experiment; its half-written line is passed over, and measured again."""
    try:
        return [ResultRow.from_row(row) for row in read_rows(path)]
    except InputError as error:
        raise InputError(f"{path}: {error}; give another --results") from error


def _complete(rows: Sequence[ResultRow], run: str) -> bool:
    return any(row.cell.run == run and row.complete for row in rows)

"""A sweep: makes the runs of a plan that are not done yet, and records what they find.

Every run is `trimlab fit` in a process of its own, so that one that fails stops no other. A run
that is recorded, for this experiment or for another, is never made again.
"""

import fcntl
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml
from rich.table import Table

from trimlab.errors import InputError
from trimlab.files import write_text
from trimlab.records.result_row import ResultRow
from trimlab.records.rows import append_row, append_rows, read_rows
from trimlab.runs.findings import rows_of
from trimlab.runs.folder import RunFolder
from trimlab.runs.plan import PlannedRun

TO_DO = ("begun", "to do")  # states of a run that has to be made


class Sweep:
    """Makes the runs of a plan that are not done yet, one after the other.

    Args:
        planned: The plan.
        results: Folder of the records; the sweep appends to `<experiment>.jsonl`.
        runs: Folder of the run folders.
        keep_models: Keep exported models and checkpoints; gigabytes a run.

    Raises:
        InputError: A record there cannot be read.
    """

    def __init__(
        self, planned: Sequence[PlannedRun], results: Path, runs: Path, keep_models: bool = False
    ):
        self.planned, self.results, self.runs = planned, results, runs
        self.keep_models = keep_models
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
        """The time that a run will take: the median of those of its task, or else of all."""
        every = [
            row
            for row in read_rows(self.runs / "seconds.jsonl")
            if (row["profile"], row["limit"]) == (run.place.profile, run.place.limit)
        ]
        alike = [r for r in every if r["task"] == run.config.get("data", {}).get("task")] or every
        return statistics.median(row["seconds"] for row in alike) if alike else None

    def table(self) -> Table:
        """The plan: what is done, what is left, and the time it will take."""
        table = Table("run", "cell", "state", "time")
        left, unknown = 0.0, 0
        for run in self.planned:
            state, seconds = self.state(run), self.seconds(run)
            to_do = state in TO_DO
            left += (seconds or 0) if to_do else 0
            unknown += to_do and seconds is None
            table.add_row(run.id, run.title, state, _time(seconds) if to_do else "")
        if unknown:
            known = f"{_time(left)}, and " if left else ""
            table.caption = f"left: {known}{unknown} run{'s' * (unknown > 1)} of unknown time"
        else:
            table.caption = f"left: {_time(left)}"
        return table

    def __call__(self) -> list[PlannedRun]:
        """Makes what is left.

        Returns:
            The runs that failed.
        """
        failed = []
        for number, run in enumerate(self.planned, start=1):
            if self.state(run) == "done":
                continue
            left = [self.seconds(r) for r in self.planned[number - 1 :] if self.state(r) in TO_DO]
            known = [s for s in left if s is not None]
            print(
                f"[{number}/{len(self.planned)}] {run.place.experiment}: {run.title} ({run.id}); "
                f"left: {_time(sum(known) if len(known) == len(left) else None)}",
                file=sys.stderr,
            )
            rows = self._known(run) or self._make(run)
            if rows:
                self._record(run, rows)
            else:
                failed.append(run)
        return failed

    # ---- inside -------------------------------------------------------------------------------

    def _folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.runs / run.id)

    def _known(self, run: PlannedRun) -> list[ResultRow]:
        """The rows of a run that was made already, for this experiment or for another."""
        for rows in self._recorded.values():
            if _complete(rows, run.id):
                return [replace(row, cell=run.place) for row in rows if row.cell.run == run.id]
        summary = self._folder(run).read_summary()
        done = summary is not None and summary.finished
        return rows_of(run.place, self._folder(run)) if done else []

    def _make(self, run: PlannedRun) -> list[ResultRow]:
        """Makes a run; its rows, or none if it failed."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with _alone(self.runs / f"{run.id}.lock") as lock:
            # the process that held the lock may have made it
            return self._known(run) or self._fit(run, lock)

    def _fit(self, run: PlannedRun, lock: int) -> list[ResultRow]:
        folder, start = self._folder(run), time.perf_counter()
        begun = folder.path.exists()
        code = start_fit(run, self.runs, lock)
        if code != 0:
            print(f"run {run.id} failed with exit code {code}; see {folder.path}", file=sys.stderr)
            return []
        rows = rows_of(run.place, folder)
        if not begun:
            about = {"run": run.id, "profile": run.place.profile, "limit": run.place.limit}
            about |= {"task": rows[0].context.task, "seconds": time.perf_counter() - start}
            append_row(self.runs / "seconds.jsonl", about)
        if not self.keep_models:
            for path in (folder.models, folder.checkpoints):
                shutil.rmtree(path, ignore_errors=True)
        return rows

    def _record(self, run: PlannedRun, rows: Sequence[ResultRow]) -> None:
        self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / f"{run.place.experiment}.jsonl"
        append_rows(path, [row.to_row() for row in rows])
        self._recorded.setdefault(run.place.experiment, []).extend(rows)


def start_fit(run: PlannedRun, runs: Path, lock: int) -> int:
    """Runs `trimlab fit` in a process of its own, and waits for its end.

    Args:
        run: The run.
        runs: Folder of the run folders.
        lock: File descriptor of the run's lock, which the process inherits.

    Returns:
        Its exit code.
    """
    command = [sys.executable, "-m", "trimlab.cli", *fit_arguments(run, runs)]
    return subprocess.run(command, check=False, pass_fds=[lock]).returncode


def fit_arguments(run: PlannedRun, runs: Path) -> list[str]:
    """The arguments of `trimlab` that make a run, whose config is written beside its folder."""
    config = runs / f"{run.id}.yaml"
    write_text(config, yaml.safe_dump(run.config, sort_keys=False))
    return [
        *("fit", "--config", str(config)),
        *("--run.dir", str(runs / run.id), "--run.shared", str(runs / "shared")),
        *("--wandb.group", run.place.experiment, "--wandb.name", run.title),
    ]


def _recorded(path: Path) -> list[ResultRow]:
    """The rows of an experiment; its half-written line is passed over, and measured again."""
    try:
        return [ResultRow.from_row(row) for row in read_rows(path)]
    except InputError as error:
        raise InputError(f"{path}: {error}; give another --results") from error


def _complete(rows: Sequence[ResultRow], run: str) -> bool:
    return any(row.cell.run == run and row.complete for row in rows)


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Holds a lock, and waits for it where another process has it.

    The fit inherits the lock: if a sweep is killed so that it cannot end its fit (SIGKILL), the
    next one waits for that.

    Args:
        path: The file that is locked.

    Yields:
        Its file descriptor.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting for the process that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _time(seconds: float | None) -> str:
    """`1 h 20 min`, for people."""
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"{hours}{minutes % 60} min" if seconds >= 60 else f"{seconds:.0f} s"

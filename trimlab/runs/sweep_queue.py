"""The queue of a sweep: runs become fits of a launcher, so many at once, each under its lock."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from trimlab.files import try_lock, write_text
from trimlab.runs.folder import RunFolder
from trimlab.runs.launchers._launcher import Ended, Fit, Job, Launcher
from trimlab.runs.plan import PlannedRun


@dataclass(frozen=True)
class Running:
    """A run whose fit has been started.

    Attributes:
        run: The run.
        job: Its fit.
        lock: The lock of the run.
        fresh: Whether its folder was made by this fit.
    """

    run: PlannedRun
    job: Job
    lock: IO[bytes]
    fresh: bool


class Queue:
    """Makes runs, in their order.

    A run is locked while it is made. One that another process holds counts as one of those at once:
    the other sweep may have been killed, and its fit still uses the machine.

    Args:
        waiting: The runs.
        launcher: Starts their fits.
        folder: Folder of the run folders.
        is_made: Whether a run was made by another sweep; asked when the run is locked.
    """

    def __init__(
        self,
        waiting: Sequence[PlannedRun],
        launcher: Launcher,
        folder: Path,
        is_made: Callable[[PlannedRun], bool],
    ):
        self.waiting, self.running = list(waiting), list[Running]()
        self._launcher, self._folder, self._is_made = launcher, folder, is_made
        self._announced: set[str] = set()  # runs that another process holds, as was said
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def empty(self) -> bool:
        """Whether every run has ended."""
        return not (self.waiting or self.running)

    def start(self) -> tuple[list[Running], list[PlannedRun]]:
        """Starts as many fits as there are free places.

        Returns:
            Runs that were started now, and runs that another sweep has made.
        """
        locks, made, held = dict[str, IO[bytes]](), [], 0
        try:
            for run in list(self.waiting):
                if len(self.running) + len(locks) + held >= self._launcher.max_queued:
                    break
                lock = try_lock(self._lock_file(run))
                if lock is None:
                    held += 1  # by another process
                    self._announce(run)
                elif self._is_made(run):
                    lock.close()
                    made.append(run)
                else:
                    locks[run.id] = lock
            started = self._launch([run for run in self.waiting if run.id in locks], locks)
        except BaseException:
            for lock in locks.values():
                lock.close()
            raise
        self.running += started
        gone = {run.id for run in made} | locks.keys()
        self.waiting = [run for run in self.waiting if run.id not in gone]
        return started, made

    def ended(self) -> list[tuple[Running, Ended]]:
        """The runs whose fits have ended since the last call. They stay locked."""
        found = [(running, running.job.poll()) for running in self.running]
        ended = [(running, end) for running, end in found if end is not None]
        self.running = [running for running, end in found if end is None]
        return ended

    def close(self) -> None:
        """Ends the fits that are at work."""
        self._launcher.stop([running.job for running in self.running])
        for running in self.running:
            running.lock.close()
        self.running = []

    # ---- inside -------------------------------------------------------------------------------

    def _launch(self, runs: Sequence[PlannedRun], locks: dict[str, IO[bytes]]) -> list[Running]:
        fresh = [not RunFolder(self._folder / run.id).path.exists() for run in runs]
        fits = [
            Fit(
                run=run.id,
                command=fit_command(run, self._folder),
                log=log_file(run, self._folder),
                lock=locks[run.id].fileno(),
            )
            for run in runs
        ]
        jobs = self._launcher.start(fits) if fits else []
        return [
            Running(run, job, locks[run.id], new)
            for run, job, new in zip(runs, jobs, fresh, strict=True)
        ]

    def _lock_file(self, run: PlannedRun) -> Path:
        return self._folder / f"{run.id}.lock"

    def _announce(self, run: PlannedRun) -> None:
        """Says once that a run is held by another process."""
        if run.id not in self._announced:
            self._announced.add(run.id)
            path = self._lock_file(run)
            print(f"waiting for the process that holds {path}", file=sys.stderr)


def fit_command(run: PlannedRun, runs: Path) -> list[str]:
    """The command that makes a run, whose config is written beside its folder."""
    runs = runs.absolute()
    config = runs / f"{run.id}.yaml"
    write_text(config, yaml.safe_dump(run.config, sort_keys=False))
    return [
        *(sys.executable, "-m", "trimlab.cli"),
        *("fit", "--config", str(config)),
        *("--run.dir", str(runs / run.id), "--run.shared", str(runs / "shared")),
        *("--wandb.group", run.place.experiment, "--wandb.name", run.title),
    ]


def log_file(run: PlannedRun, runs: Path) -> Path:
    """The file with the output of a run's fits, beside its folder."""
    return runs.absolute() / f"{run.id}.log"

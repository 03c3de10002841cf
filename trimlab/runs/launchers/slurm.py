"""Fits on a Slurm cluster: one job array, through submitit."""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from subprocess import CalledProcessError, Popen
from typing import Any

from trimlab.errors import InputError, one_line
from trimlab.files import write_text
from trimlab.runs.launchers._launcher import (
    Ended,
    Fit,
    Job,
    Launcher,
    end_process,
    kill_process,
    start_process,
)

GRACE_SECONDS = 60  # for a fit to save its state; a job is warned 90 s before its time is over
# in front of a command, which then ignores the signals of preemption: submitit ends the fit
IGNORE_SIGNALS = ("sh", "-c", 'trap "" TERM USR2; exec "$@"', "sh")


class Slurm(Launcher):
    """A Slurm cluster: every fit is a task of a job array.

    A job that is preempted or out of time is queued again, and its fit goes on from its last
    checkpoint. The folders of the runs must be on a file system that the nodes share.
    """

    max_queued = 1000  # the largest array of a plain Slurm, where MaxArraySize is 1001
    poll_seconds = 2.0
    executor = "slurm"  # submitit's name of it; tests have no cluster

    def __init__(
        self,
        jobs: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        time: int = 240,
        cpus: int = 4,
        gpus: int = 0,
        memory: float | None = None,
        timeouts: int = 20,
        sbatch: dict[str, Any] | None = None,
    ):
        """Checks the options.

        Args:
            jobs: Largest number of jobs that run at the same time; None: 256.
            partition: Partition; the cluster's default if left out.
            account: Account that is charged.
            time: Time limit of a job, in minutes. A fit that needs longer is queued again and goes
                on; between two of its checkpoints there is one epoch.
            cpus: CPU cores of a job.
            gpus: GPUs of a job; a fit uses as many as `trainer.devices` says, 1 by default.
            memory: Memory of a job, in GB; the cluster's default if left out.
            timeouts: How often a fit may run out of time before it counts as failed.
            sbatch: Further options of `sbatch`: `{"constraint": "h100", "qos": "high"}`.

        Raises:
            InputError: submitit or Slurm is missing, or a number is too small.
        """
        for name, value in (("jobs", jobs), ("slurm.time", time), ("slurm.cpus", cpus)):
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, not {value}")
        if gpus < 0:
            raise InputError(f"--slurm.gpus must be 0 or more, not {gpus}")
        self._check_installed()
        self.at_once = 256 if jobs is None else jobs
        self._cpus, self._timeouts = cpus, timeouts
        self._parameters = {
            "name": "trimlab",
            "timeout_min": time,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
            "mem_gb": memory,
            "slurm_array_parallelism": self.at_once,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_additional_parameters": sbatch,
        }

    def start(self, fits: Sequence[Fit]) -> Sequence[Job]:
        """Submits fits as one array, but those whose jobs a killed sweep has left."""
        jobs = _left_by_another_sweep(fits)
        new = [fit for fit in fits if fit.run not in jobs]
        jobs |= zip((fit.run for fit in new), self._submit(new), strict=True)
        return [jobs[fit.run] for fit in fits]

    def stop(self, jobs: Sequence["SlurmJob"]) -> None:
        """Cancels jobs."""
        for job in jobs:
            with suppress(CalledProcessError, OSError):  # it has ended, or the cluster is away
                job.submitted.cancel()
            job.forget()

    def _submit(self, fits: Sequence[Fit]) -> list["SlurmJob"]:
        if not fits:
            return []
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = fits[0].log.parent / "slurm"
        executor = AutoExecutor(folder, cluster=self.executor, slurm_max_num_timeout=self._timeouts)
        executor.update_parameters(**self._parameters)
        calls = [FitCall(fit, self._cpus, Path.cwd()) for fit in fits]
        try:
            submitted = executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError(f"sbatch refuses the jobs: {_last_line(error)}") from error
        jobs = [SlurmJob(fit, job) for fit, job in zip(fits, submitted, strict=True)]
        for job in jobs:
            job.remember()
        return jobs

    def _check_installed(self) -> None:
        try:
            import submitit  # noqa: F401
        except ModuleNotFoundError as error:
            raise InputError("submitit is not installed: pip install 'trimlab[slurm]'") from error
        if self.executor == "slurm" and shutil.which("sbatch") is None:
            raise InputError("there is no Slurm here (no command `sbatch`); use --launcher local")


class SlurmJob(Job):
    """A fit in the queue or on a node.

    Its number is kept beside the run folder, so that the next sweep finds it if this one is killed.

    Args:
        fit: The fit.
        submitted: submitit's job.
    """

    def __init__(self, fit: Fit, submitted: Any):
        self.run, self.submitted, self._fit = fit.run, submitted, fit
        self._file = _job_file(fit)

    def poll(self) -> Ended | None:
        """The end of the job."""
        if not self.submitted.done():
            return None
        self.forget()
        error = self.submitted.exception()
        if error is None:
            return Ended(**self.submitted.result())
        with self._fit.log.open("a") as log:  # out of memory, cancelled, too often out of time
            log.write(f"{error}\n")
        return Ended(code=1)

    def waits(self) -> bool:
        """Whether it has not been on a node yet: there it writes its output."""
        return not self.submitted.paths.stdout.exists()

    def remember(self) -> None:
        """Keeps the number of the job."""
        row = {"folder": str(self.submitted.paths.folder), "job": self.submitted.job_id}
        write_text(self._file, json.dumps(row) + "\n")

    def forget(self) -> None:
        """Removes what `remember` kept."""
        self._file.unlink(missing_ok=True)


@dataclass
class FitCall:
    """`trimlab fit` inside a job, as submitit calls it.

    Attributes:
        fit: The fit.
        cpus: Its CPU cores.
        folder: Folder that it is started in.
    """

    fit: Fit
    cpus: int
    folder: Path
    _process: "Popen[bytes] | None" = field(default=None, init=False, repr=False)

    def __call__(self) -> dict[str, Any]:
        """Runs the fit.

        Returns:
            The fields of `Ended`.
        """
        start = time.perf_counter()
        environment = fit_environment(os.environ, self.cpus)
        fit = replace(self.fit, command=[*IGNORE_SIGNALS, *self.fit.command])
        self._process = start_process(fit, environment, folder=self.folder)
        try:
            code = self._process.wait()
        except BaseException:  # preempted, or cancelled
            kill_process(self._process)
            self._process.wait()
            raise
        return asdict(Ended(code, time.perf_counter() - start))

    def checkpoint(self) -> Any:
        """Called by submitit before the job is queued again: the fit saves the step it is in.

        Returns:
            The same call, for the next job.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:  # its end is waited for in the call, which this interrupts
            end_process(self._process, GRACE_SECONDS)
        return DelayedSubmission(FitCall(self.fit, self.cpus, self.folder))


def fit_environment(environment: Mapping[str, str], cpus: int) -> dict[str, str]:
    """The environment of a fit inside a job.

    Without Slurm's variables: where Lightning sees them, it queues jobs again in its own way.

    Args:
        environment: The environment of the job.
        cpus: CPU cores of the job.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
    return kept | {"OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus)}


def _job_file(fit: Fit) -> Path:
    return fit.log.with_suffix(".job")


def _left_by_another_sweep(fits: Sequence[Fit]) -> dict[str, SlurmJob]:
    """Jobs in the queue or on a node that a killed sweep has submitted, by run."""
    known = [job for fit in fits if (job := _remembered(fit)) is not None]
    found = {}
    for number, job in enumerate(known):
        # one question to the cluster is about all jobs that submitit knows of
        mode = "cache" if number else "force"
        state = job.submitted.watcher.get_state(job.submitted.job_id, mode=mode)
        if state != "UNKNOWN" and not job.submitted.done():
            found[job.run] = job
    return found


def _remembered(fit: Fit) -> SlurmJob | None:
    """The job of a fit whose number `SlurmJob.remember` has kept."""
    from submitit import SlurmJob as Submitted

    try:
        row = json.loads(_job_file(fit).read_text())
    except (OSError, ValueError):
        return None
    return SlurmJob(fit, Submitted(folder=row["folder"], job_id=row["job"]))


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else one_line(error)

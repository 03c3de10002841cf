"""Launchers: fits as processes of this machine, and as jobs of a cluster."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import submitit
import torch

from tests.runs.test_sweep import exit_code
from trimlab.errors import InputError
from trimlab.files import try_lock
from trimlab.plugins import plugin_names
from trimlab.records.provenance import provenance
from trimlab.runs.launchers._launcher import LAUNCHERS, Ended, Fit, Job
from trimlab.runs.launchers.local import Local, share_of_machine
from trimlab.runs.launchers.slurm import Slurm, fit_environment

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "table6.yaml"


class SlurmHere(Slurm):
    """The launcher `slurm` with processes of this machine in place of a cluster."""

    executor = "local"
    poll_seconds = 0.2


# ---- launchers ---------------------------------------------------------------------------------


def fit(folder: Path, code: str, run: str = "run") -> Fit:
    """A fit that runs a piece of Python under a lock."""
    lock = (folder / f"{run}.lock").open("ab")
    duplicate = os.dup(lock.fileno())  # stays open without the file
    return Fit(run, [sys.executable, "-c", code], folder / f"{run}.log", duplicate)


def wait(job: Job) -> Ended:
    while (end := job.poll()) is None:
        time.sleep(0.02)
    return end


def test_a_fit_is_locked_until_its_end(tmp_path: Path) -> None:
    """Also when the sweep, which locked it, was killed outright."""
    lock = try_lock(tmp_path / "run.lock")
    assert lock is not None
    code = "import time; print('begun', flush=True); time.sleep(60)"
    command, log = [sys.executable, "-c", code], tmp_path / "run.log"
    launcher = Local()
    (job,) = launcher.start([Fit("run", command, log, lock.fileno())])
    lock.close()
    assert try_lock(tmp_path / "run.lock") is None
    launcher.stop([job])  # type: ignore[list-item]
    again = try_lock(tmp_path / "run.lock")
    assert again is not None
    again.close()


def test_stopping_ends_the_children_of_a_fit_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    launcher, work = Local(), fit(tmp_path, code)
    (job,) = launcher.start([work])
    while not work.log.read_text().endswith("\n"):
        time.sleep(0.02)
    child = psutil.Process(int(work.log.read_text()))
    launcher.stop([job])  # type: ignore[list-item]
    assert job.poll() is not None and job.poll().code == -signal.SIGKILL
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_fits_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)  # two hyperthreads a core
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    shares = [share_of_machine(slot, 3, {}) for slot in range(3)]
    assert [share["OMP_NUM_THREADS"] for share in shares] == ["2"] * 3
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0", "1", "0"]
    # limits of the sweep hold for each fit
    limited = {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "5, GPU-8a"}
    share = share_of_machine(1, 2, limited)
    assert (share["MKL_NUM_THREADS"], share["CUDA_VISIBLE_DEVICES"]) == ("4", "GPU-8a")
    assert share_of_machine(0, 8, limited)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "CUDA_VISIBLE_DEVICES" not in share_of_machine(0, 2, {})
    # and the record says so, since its times are those of a busy machine
    assert "runs_at_once" not in provenance()["hardware"]
    monkeypatch.setenv("TRIMLAB_RUNS_AT_ONCE", shares[0]["TRIMLAB_RUNS_AT_ONCE"])
    assert provenance()["hardware"]["runs_at_once"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs 0 is not possible on this machine; give 1 to 4"),
        (["--jobs", "5"], "--jobs 5 is not possible on this machine; give 1 to 4"),
        (["--launcher", "nosuch"], "no launcher 'nosuch'; there are local, slurm"),
        (["--launcher", "slurm"], "no command `sbatch`"),
        (["--launcher", "slurm", "--jobs", "0"], "--jobs must be at least 1"),
        (["--launcher", "slurm", "--slurm.gpus", "-1"], "--slurm.gpus must be 0 or more, not -1"),
    ],
)
def test_bad_options(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert exit_code("sweep", EXPERIMENT, "--profile", "gemma-270m", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_submitit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install 'trimlab\[slurm\]'"):
        Slurm()


@pytest.mark.parametrize("name", plugin_names(LAUNCHERS))
def test_the_help_shows_every_launcher(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sweep", "--help") == 0
    assert name in capsys.readouterr().out


# ---- slurm -------------------------------------------------------------------------------------


def test_a_job_has_the_exit_code_of_its_fit(tmp_path: Path) -> None:
    code = "import os; print(sorted(k for k in os.environ if 'SUBMITIT' in k)); raise SystemExit(3)"
    (job,) = SlurmHere().start([fit(tmp_path, code)])
    assert (tmp_path / "run.job").exists()  # for the next sweep, if this one is killed
    end = wait(job)
    assert end.code == 3 and end.seconds is not None
    assert (tmp_path / "run.log").read_text() == "[]\n"
    assert not (tmp_path / "run.job").exists()
    environment = {"SLURM_NTASKS": "1", "SUBMITIT_FOLDER": "x", "HOME": "y"}
    assert fit_environment(environment, cpus=3) == {
        "HOME": "y",
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
    }


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that a test starts hear SIGINT, which a shell lets its background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_preempted_job_goes_on(tmp_path: Path) -> None:
    """It may save its state, is queued again, and is started again in the same folder."""
    code = (
        "import os, pathlib, time\n"
        "begun = pathlib.Path('begun').exists()\n"
        "pathlib.Path('begun').touch()\n"
        "print(os.getpid(), flush=True)\n"
        "try:\n"
        "    time.sleep(0 if begun else 60)\n"
        "except KeyboardInterrupt:\n"
        "    print('saved', flush=True)\n"
    )
    work = fit(tmp_path, f"import os; os.chdir({str(tmp_path)!r})\n{code}")
    (job,) = SlurmHere().start([work])
    while not (work.log.exists() and work.log.read_text().endswith("\n")):
        time.sleep(0.05)
    process = psutil.Process(int(work.log.read_text()))
    process.send_signal(signal.SIGTERM)  # Slurm warns every process of a job
    parent = process.parent()
    assert parent is not None
    parent.send_signal(signal.SIGUSR2)
    assert wait(job).code == 0
    assert not process.is_running()
    first, saved, second = work.log.read_text().splitlines()
    assert saved == "saved" and first != second


@pytest.mark.usefixtures("interruptible")
def test_stopping_cancels_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)  # for the file of a result
    launcher = SlurmHere()
    work = fit(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    (job,) = launcher.start([work])
    while not (work.log.exists() and work.log.read_text().endswith("\n")):
        time.sleep(0.05)
    process = psutil.Process(int(work.log.read_text()))
    launcher.stop([job])  # type: ignore[list-item]
    psutil.wait_procs([process], timeout=60)
    assert not process.is_running()
    assert wait(job).code == 1


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands of Slurm, as far as they are used: all jobs are number 12, and run."""
    states = "'JobID|State|NodeList\\n12_0|RUNNING|n1\\n12_1|RUNNING|n2\\n'"
    commands = {
        "sbatch": "echo Submitted batch job 12",
        "srun": "",
        "sacct": f"echo >> {tmp_path}/asked; printf {states}",
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_fits_are_submitted_as_one_array(cluster: Path, tmp_path: Path) -> None:
    launcher = Slurm(
        jobs=1, partition="long", time=90, cpus=2, gpus=1, memory=16, sbatch={"qos": "high"}
    )
    fits = [fit(tmp_path, "", run) for run in ("a", "b")]
    jobs = launcher.start(fits)
    assert [job.poll() for job in jobs] == [None, None] and all(job.waits() for job in jobs)
    (script,) = (tmp_path / "slurm").glob("12_submission.sh")
    for option in (
        *("array=0-1%1", "partition=long", "time=90", "cpus-per-task=2", "gpus-per-node=1"),
        *("mem=16GB", "qos=high", "signal=USR2@90"),
    ):
        assert f"#SBATCH --{option}\n" in script.read_text()
    # the next sweep finds them in the queue: this one was killed
    (cluster / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    asked = len((tmp_path / "asked").read_text())
    again = Slurm().start(fits)
    assert len((tmp_path / "asked").read_text()) == asked + 1  # for both
    assert [job.submitted.job_id for job in again] == ["12_0", "12_1"]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="sbatch refuses the jobs: no such partition"):
        Slurm().start([fit(tmp_path, "", "c")])

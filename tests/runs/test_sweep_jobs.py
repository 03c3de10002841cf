"""Runs side by side: what launchers do, and that no record depends on them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import submitit
import torch
import yaml

from tests.runs.test_sweep import exit_code, settings
from trimlab.errors import InputError
from trimlab.files import try_lock
from trimlab.plugins import plugin_names
from trimlab.records.provenance import provenance
from trimlab.records.result_row import ExperimentCell
from trimlab.runs import sweep_queue
from trimlab.runs.fit_progress import FitProgress, fit_progress, seconds_left
from trimlab.runs.folder import RunFolder
from trimlab.runs.launchers._launcher import LAUNCHERS, Ended, Fit, Job, Launcher
from trimlab.runs.launchers.local import Local, share_of_machine
from trimlab.runs.launchers.slurm import Slurm, fit_environment
from trimlab.runs.plan import PlannedRun, nested
from trimlab.runs.sweep import Sweep
from trimlab.runs.sweep_display import last_lines, time_left

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "table6.yaml"

# makes a run in a moment: a finished run folder is copied under the id of the run
COPY = """
import pathlib, sys
template, folder, known = map(pathlib.Path, sys.argv[1:])
print("trimlab: made", folder.name)
folder.mkdir()
for path in template.iterdir():
    if path.is_file():
        (folder / path.name).write_text(path.read_text().replace(known.name, folder.name))
"""


class SlurmHere(Slurm):
    """The launcher `slurm` with processes of this machine in place of a cluster."""

    executor = "local"
    poll_seconds = 0.2


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, base: Path, root: Path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("template")
    options = dict(text.split("=") for text in settings(base))
    config: Any = nested({name: yaml.safe_load(value) for name, value in options.items()})
    config["trim"] |= {"max_drops": 2, "progress": False}
    config["data"]["root"] = str(root)
    config["run"] |= {"full_depth": False, "dir": str(folder / "run")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert exit_code("fit", "--config", folder / "config.yaml") == 0
    return folder / "run"


@pytest.fixture
def quick(template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fits copy the template, but those of runs whose id begins with `f` fail."""
    known = json.loads((template / "summary.json").read_text())["config_hash"]

    def command(run: PlannedRun, runs: Path) -> list[str]:
        if run.id.startswith("f"):
            return [sys.executable, "-c", "print('trimlab: no such model'); raise SystemExit(2)"]
        return [sys.executable, "-c", COPY, str(template), str(runs / run.id), known]

    monkeypatch.setattr(sweep_queue, "fit_command", command)
    return template


def planned(*names: str) -> list[PlannedRun]:
    return [
        PlannedRun(
            ExperimentCell(
                experiment="letters",
                profile="tiny",
                cell={"trim.r": n},
                run=f"{name:0<16}",
                seed=0,
                limit=None,
                overrides={},
            ),
            config={},
        )
        for n, name in enumerate(names)
    ]


class Scripted(Launcher):
    """Fits that a test ends. `begin` and `end` make and finish a run by the template."""

    capacity = 2

    def __init__(self, jobs: int | None = None):
        self.at_once = 2
        self.jobs: dict[str, ScriptedJob] = {}
        self.stopped: list[str] = []

    def start(self, fits: Sequence[Fit]) -> Sequence[Job]:
        for fit in fits:
            self.jobs[fit.run] = ScriptedJob(fit)
        return [self.jobs[fit.run] for fit in fits]

    def stop(self, jobs: Sequence["ScriptedJob"]) -> None:
        self.stopped += [job.fit.run for job in jobs]


class ScriptedJob(Job):
    def __init__(self, fit: Fit):
        self.fit = fit
        self.end: Ended | None = None

    def poll(self) -> Ended | None:
        return self.end


def make(fit: Fit) -> None:
    """Runs the command of a fit to its end."""
    assert subprocess.run(fit.command, check=False).returncode == 0


# ---- the records -------------------------------------------------------------------------------


LAUNCHED: dict[str, Callable[[], Launcher]] = {
    "one at a time": Local,
    "two at a time": lambda: Local(min(2, len(os.sched_getaffinity(0)))),
    "slurm": SlurmHere,
}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_records_do_not_depend_on_the_launcher(
    launcher: str, quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = planned("a", "f", "b")
    sweep = Sweep(runs, tmp_path / "results", tmp_path / "runs", launcher=LAUNCHED[launcher]())
    assert [run.id[0] for run in sweep()] == ["f"]  # a failed run takes nobody along
    rows = [json.loads(line) for line in (tmp_path / "results/letters.jsonl").open()]
    of_template = len((quick / "record.jsonl").read_text().splitlines())
    points = [row["run"][0] for row in rows if row["kind"] == "operating_point"]
    assert points == ["a"] * of_template + ["b"] * of_template
    assert [row["run"][0] for row in rows if row.get("complete")] == ["a", "b"]
    assert [sweep.state(run) for run in runs] == ["done", "to do", "done"]
    # the output is in a file for each, and its end is shown where one fails
    assert "made a000" in (tmp_path / "runs" / f"{runs[0].id}.log").read_text()
    error = capsys.readouterr().err
    assert "trimlab: no such model" in error and "made a000" not in error


def test_records_are_in_the_order_of_the_plan(quick: Path, tmp_path: Path) -> None:
    """However the runs end; and no more than two are at work."""
    launcher, seen, runs = Scripted(), [], planned("a", "b", "c")

    def end_last_started() -> None:
        at_work = [job for job in launcher.jobs.values() if job.end is None]
        seen.append([job.fit.run[0] for job in at_work])
        make(at_work[-1].fit)
        at_work[-1].end = Ended(0, 1.0)

    class Turn(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout:
                end_last_started()
            return False

    assert Sweep(runs, tmp_path / "results", tmp_path / "runs", launcher=launcher)(Turn()) == []
    assert seen == [["a", "b"], ["a", "c"], ["a"]]
    rows = [json.loads(line) for line in (tmp_path / "results/letters.jsonl").open()]
    assert [row["run"][0] for row in rows if row.get("complete")] == ["a", "b", "c"]


def test_a_stopped_sweep_ends_its_fits(quick: Path, tmp_path: Path) -> None:
    launcher, stop, runs = Scripted(), threading.Event(), planned("a", "b", "c")
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        Sweep(runs, tmp_path / "results", tmp_path / "runs", launcher=launcher)(stop)
    assert [run[0] for run in launcher.stopped] == ["a", "b"]
    for run in runs:
        lock = try_lock(tmp_path / "runs" / f"{run.id}.lock")
        assert lock is not None  # nobody holds it any more
        lock.close()


def test_two_sweeps_at_once_make_no_run_twice(quick: Path, tmp_path: Path) -> None:
    runs, started = planned("a", "b", "c", "d"), list[str]()

    class Counted(Local):
        def start(self, fits: Sequence[Fit]) -> Sequence[Job]:
            started.extend(fit.run[0] for fit in fits)
            return super().start(fits)

    sweeps = [
        Sweep(runs, tmp_path / "results", tmp_path / "runs", launcher=Counted()) for _ in range(2)
    ]
    threads = [threading.Thread(target=sweep) for sweep in sweeps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == ["a", "b", "c", "d"]
    rows = [json.loads(line) for line in (tmp_path / "results/letters.jsonl").open()]
    assert [row["run"][0] for row in rows if row.get("complete")] == ["a", "b", "c", "d"]


def test_a_run_that_another_process_makes_takes_a_place(
    quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sweep was killed, but its fit still uses the machine."""
    launcher, (a, b, c) = Scripted(), planned("a", "b", "c")
    tmp_path.joinpath("runs").mkdir()
    path = tmp_path / "runs" / f"{a.id}.lock"
    lock = try_lock(path)
    assert lock is not None and try_lock(path) is None
    queue = sweep_queue.Queue([a, b, c], launcher, tmp_path / "runs", lambda run: run.id == a.id)
    for _ in range(2):
        queue.start()
        assert [running.run for running in queue.running] == [b]
    assert capsys.readouterr().err == f"waiting for the process that holds {path}\n"
    lock.close()
    started, made = queue.start()
    assert ([running.run for running in started], made) == ([c], [a])
    queue.close()


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
        (["--launcher", "slurm", "--slurm.gpus", "4"], "--slurm.gpus must be 0 or 1, not 4"),
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


def test_a_preempted_job_goes_on(tmp_path: Path) -> None:
    """It is queued again, and the fit is started again in the same folder."""
    code = (
        "import os, pathlib, time\n"
        "begun = pathlib.Path('begun').exists()\n"
        "pathlib.Path('begun').touch()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(0 if begun else 60)"
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
    assert len(work.log.read_text().splitlines()) == 2


def test_stopping_cancels_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)  # for the file of a result
    launcher = SlurmHere()
    work = fit(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    (job,) = launcher.start([work])
    while not (work.log.exists() and work.log.read_text().endswith("\n")):
        time.sleep(0.05)
    process = psutil.Process(int(work.log.read_text()))
    launcher.stop([job])  # type: ignore[list-item]
    psutil.wait_procs([process], timeout=10)
    assert not process.is_running()
    assert wait(job).code == 1


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands of Slurm, as far as they are used: all jobs are number 12, and run."""
    commands = {
        "sbatch": "echo Submitted batch job 12",
        "srun": "",
        "sacct": "printf 'JobID|State|NodeList\\n12_0|RUNNING|n1\\n12_1|RUNNING|n2\\n'",
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
    again = Slurm().start(fits)
    assert [job.submitted.job_id for job in again] == ["12_0", "12_1"]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="sbatch refuses the jobs: no such partition"):
        Slurm().start([fit(tmp_path, "", "c")])


# ---- progress ----------------------------------------------------------------------------------


def test_progress_is_read_from_the_run_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert fit_progress(folder) == FitProgress("loading", 0)
    config = {
        "run": {"compare": ["sparsegpt"]},
        "trim": {"target_layer_memory": 0.5, "target_model_memory": None, "max_drops": None},
    }
    folder.config.write_text(yaml.safe_dump(config))
    assert fit_progress(folder).phase == "testing the untrimmed model"
    summary: dict[str, Any] = {"untrimmed": {}}
    folder.summary.write_text(json.dumps(summary))
    assert fit_progress(folder) == FitProgress("trimming", 0)
    rows = [
        {"layer_memory_ratio": ratio, "model_memory_ratio": 1, "history": []}
        for ratio in (1.0, 0.75)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    folder.record.write_text(text + '{"layer_mem')  # a row that is being written
    # half of the way to 0.5, in one of three parts: trimming, full depth, one baseline
    assert fit_progress(folder) == FitProgress("trimming: layers 75 %", 0.5 / 3)
    for field, phase, share in (
        ("stopped_because", "exporting", 1 / 3),
        ("models", "fine-tuning at full depth", 1 / 3),
        ("fine_tuned", "baseline sparsegpt", 2 / 3),
    ):
        summary[field] = "there"
        folder.summary.write_text(json.dumps(summary))
        assert fit_progress(folder) == FitProgress(phase, share)
    folder.summary.write_text(json.dumps(summary | {"compared": {"sparsegpt": []}}))
    assert fit_progress(folder) == FitProgress("ending", 1)


def test_the_time_left() -> None:
    # two places: the third run starts after 10 s and ends after 40 s
    assert time_left([10, 30], [30], at_once=2) == 40
    assert time_left([], [10, 20, 30], at_once=1) == 60
    assert time_left([], [10, 20], at_once=5) == 20
    assert time_left([], [], at_once=2) == 0
    # known from other runs; half of this one was done before
    assert seconds_left(100, elapsed=20, share_at_start=0.5, share=0.6) == 30
    assert seconds_left(100, elapsed=120, share_at_start=0, share=0.9) == 0
    # unknown: a quarter of the work has taken 20 s, half is left
    assert seconds_left(None, elapsed=20, share_at_start=0.25, share=0.5) == 40
    assert seconds_left(None, elapsed=20, share_at_start=0, share=0) is None


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    """As on a terminal, where a progress bar is one line."""
    path = tmp_path / "run.log"
    assert last_lines(path) == []
    path.write_bytes(b"first\nscan 1/9\rscan 5/9\rscan 9/9\n\ntrimlab: no room\n")
    assert last_lines(path) == ["first", "scan 9/9", "trimlab: no room"]
    assert last_lines(path, 1) == ["trimlab: no room"]

"""Runs side by side: what launchers do, and that no record depends on them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs.test_launchers import SlurmHere
from tests.runs.test_sweep import exit_code, settings
from trimlab.files import try_lock
from trimlab.records.result_row import ExperimentCell
from trimlab.records.rows import append_row, read_rows
from trimlab.runs import sweep_display, sweep_queue
from trimlab.runs.fit_progress import FitProgress, fit_progress, seconds_left
from trimlab.runs.folder import RunFolder
from trimlab.runs.launchers._launcher import Ended, Fit, Job, Launcher
from trimlab.runs.launchers.local import Local
from trimlab.runs.plan import PlannedRun
from trimlab.runs.sweep import Sweep
from trimlab.runs.sweep_display import last_lines, time_left

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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, base: Path, root: Path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("template")
    config = settings(base)
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

    max_queued = 2

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


def test_fine_tuning_before_the_first_drop_is_progress(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    config = {"run": {"trim_from": "fine_tuned"}, "trim": {"target_layer_memory": 0.5}}
    folder.config.write_text(yaml.safe_dump(config))
    summary: dict[str, Any] = {"untrimmed": {}}
    folder.summary.write_text(json.dumps(summary))
    assert fit_progress(folder) == FitProgress("fine-tuning at full depth", 0)
    summary["fine_tuned"] = {}
    folder.summary.write_text(json.dumps(summary))
    assert fit_progress(folder) == FitProgress("trimming", 1 / 2)
    row = {"layer_memory_ratio": 0.75, "model_memory_ratio": 1, "history": []}
    folder.record.write_text(json.dumps(row) + "\n")
    assert fit_progress(folder) == FitProgress("trimming: layers 75 %", 1.5 / 2)
    folder.summary.write_text(json.dumps(summary | {"stopped_because": "target"}))
    assert fit_progress(folder) == FitProgress("exporting", 1)


def test_files_are_read_once_however_many_runs_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[str] = []

    def progress(folder: RunFolder) -> FitProgress:
        read.append(folder.path.name[0])
        return FitProgress("trimming", 0.5)

    monkeypatch.setattr(sweep_display, "SHOW_SECONDS", 0)
    monkeypatch.setattr(sweep_display, "PLAIN_SECONDS", 0)
    monkeypatch.setattr("trimlab.runs.fit_progress.fit_progress", progress)
    launcher, runs = Scripted(), planned("a", "b", "c", "d")
    asked: list[str] = []

    def seconds(run: PlannedRun) -> float:
        asked.append(run.id[0])
        return 60.0

    queue = sweep_queue.Queue(runs, launcher, tmp_path, lambda _: False)
    display = sweep_display.SweepDisplay(runs, tmp_path, seconds, launcher.at_once)
    started, _ = queue.start()
    display.started(started, queue)
    assert (read, asked) == (["a", "b"], ["a", "b", "c", "d"])
    read.clear()
    display.show(queue)
    assert read == ["a", "b"]
    queue.close()
    assert capsys.readouterr().err.count("; left: 1 min") == 2


def test_the_times_of_runs_are_read_again_when_there_are_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,), read = planned("a"), list[Path]()
    sweep, path = Sweep([run], tmp_path / "results", tmp_path), tmp_path / "seconds.jsonl"

    def rows(path: Path) -> Any:
        read.append(path)
        return read_rows(path)

    monkeypatch.setattr("trimlab.runs.sweep.read_rows", rows)
    row = {"profile": "tiny", "limit": None, "task": None, "at_once": 1}
    assert [sweep.seconds(run) for _ in range(3)] == [None] * 3
    for seconds, median in ((10.0, 10.0), (30.0, 20.0)):  # another sweep adds a row
        append_row(path, row | {"seconds": seconds})
        assert [sweep.seconds(run) for _ in range(3)] == [median] * 3
    assert read == [path, path]


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

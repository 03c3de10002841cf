"""Kills real runs of a tiny model, resumes them, and compares what they end with.

A run that is killed before each of its writes in turn, in the middle of them, and at random moments
ends as one that nobody touched: the same files, but for times. As a script, for as long as wanted:

    python -m tests.crashes --minutes 60
"""

import argparse
import ctypes
import gc
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.forked import Ended as ChildEnded
from tests.forked import Forked
from trimlab import cli
from trimlab.errors import disk_is_full
from trimlab.records.results import read_results
from trimlab.records.rows import TIMING_FIELDS, read_rows
from trimlab.runs.launchers._launcher import Ended, Fit, Job, Launcher

RunIn = Callable[[Path], Any]  # makes a run in a folder, or goes on with it

# the places of paths among the arguments of audit events that change files, and of their folders'
# descriptors
CHANGES = {
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.link": ((0, 2), (1, 3)),
    "os.truncate": ((0, None),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SMALLEST = 40  # bytes of a file that is cut in two: few enough for a row of a record
KILLED, CUT = -signal.SIGKILL, -signal.SIGXFSZ  # exit codes of the two ways to die


@dataclass(frozen=True)
class Write:
    """A change of a file: what is about to happen, and to which path below the folder."""

    what: str
    path: Path


class Writes:
    """Calls a function before every change of a file below a folder, in this process.

    For a child process, since nobody can take an audit hook away again.

    Args:
        folder: The folder.
        before: Called with the number of the change, from 0, and the change.
    """

    def __init__(self, folder: Path, before: Callable[[int, Write], None]):
        self.folder, self.before, self.count = folder, before, 0
        sys.addaudithook(self._on_event)
        fsync = os.fsync

        def fsync_with_event(file: int) -> None:
            self._tell("fsync", _of_descriptor(file))
            fsync(file)

        os.fsync = fsync_with_event

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and isinstance(path, str | bytes | os.PathLike):
                self._tell("open", Path(os.fsdecode(path)))
        elif event in CHANGES:
            for place, folder in CHANGES[event][:1]:  # of a rename, what it moves
                path = Path(os.fsdecode(arguments[place]))
                base = -1 if folder is None else arguments[folder]
                if base is not None and base >= 0:
                    path = _of_descriptor(base) / path
                self._tell(event.removeprefix("os."), path)

    def _tell(self, what: str, path: Path) -> None:
        path = path.absolute()
        if path.is_relative_to(self.folder):
            number, self.count = self.count, self.count + 1
            self.before(number, Write(what, path.relative_to(self.folder)))


def _of_descriptor(file: int) -> Path:
    return Path(f"/proc/self/fd/{file}").readlink()


def die(*_args: Any) -> None:
    """As kill -9 does it: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_next_write(path: Path) -> None:
    """Lets the kernel end this process in the middle of a write, after some bytes of it."""
    size = path.stat().st_size if path.exists() and not path.name.endswith(".part") else 0
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + SMALLEST, resource.RLIM_INFINITY))


# ---- runs and where they die -------------------------------------------------------------------


def crash_states(run: RunIn, folder: Path, states: Path) -> list[Path]:
    """Makes a run and keeps every state of its folder in which a kill could leave it.

    These are the states before each change of a file, and those in which what was written since is
    cut in two. Equal states are kept once.

    Args:
        run: Makes the run.
        folder: Its folder.
        states: An empty folder for the states, which are copies.

    Returns:
        The states, in the order in which a run passes through them.
    """

    def keep(number: int, write: Write) -> None:
        name = re.sub("[^a-zA-Z0-9.]+", "-", f"{number:04}-{write.what}-{write.path}")
        if folder.exists():
            shutil.copytree(folder, states / name)

    states.mkdir()
    ended = Forked(lambda: (Writes(folder, keep), run(folder))).wait()
    assert ended.code == 0, ended.err
    found: list[Path] = []
    before: dict[str, bytes] = {}
    for state in sorted(states.iterdir()):
        files = {str(p.relative_to(state)): p.read_bytes() for p in _files(state)}
        for name, content in files.items():
            there = len(before.get(name, b""))
            if len(content) > there + 1 and content.startswith(before.get(name, b"")):
                cut = state.with_name(f"{state.name}-cut-{len(found)}")
                shutil.copytree(state, cut)
                os.truncate(cut / name, there + (len(content) - there) // 2)
                found.append(cut)
        if files == before and found:
            shutil.rmtree(state)
        else:
            found.append(state)
        before = files
    return found


def _kept(state: Path) -> frozenset[tuple[str, bytes]]:
    """What a state holds apart from temporary files, which are removed before anything is read."""
    names = {p: str(p.relative_to(state)) for p in _files(state)}
    return frozenset((n, p.read_bytes()) for p, n in names.items() if ".part" not in n)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def killed_at(run: RunIn, folder: Path, number: int, *, halfway: bool = False) -> ChildEnded:
    """A run that is killed before its n-th change of a file, or in the middle of the next write."""

    def before(here: int, write: Write) -> None:
        if here == number:
            die_in_next_write(folder / write.path) if halfway else die()

    return Forked(lambda: (Writes(folder, before), run(folder))).wait()


def killed_after(
    run: RunIn, folder: Path, seconds: float, number: int = signal.SIGKILL
) -> ChildEnded:
    """A run that gets a signal some time after its start."""
    child = Forked(run, folder)
    child.process.join(seconds)
    if child.process.is_alive():
        assert child.process.pid is not None
        os.kill(child.process.pid, number)
    return child.wait()


def on_a_full_disk(run: RunIn, folder: Path, full: Callable[[int, Write], bool]) -> ChildEnded:
    """A run whose disk is full from some change of a file on, and one when there is room again.

    The folder is a small file system of the child alone; its content is copied to the parent's.

    Returns:
        The end of the child; its output tells how the first run ended.
    """

    def both() -> None:
        folder.mkdir()
        mount_small_disk(folder)
        filler, filled = folder / ".filler", list[Write]()

        def before(number: int, write: Write) -> None:
            if write.path != Path(filler.name) and not filled and full(number, write):
                filled.append(write)
                fill(filler)

        Writes(folder, before)
        try:
            run(folder)
            print("the run came to its end")
        except Exception as error:
            print(f"{'a full disk' if disk_is_full(error) else 'another error'}: {error!r}")
        filler.unlink(missing_ok=True)
        run(folder)
        shutil.copytree(folder, folder.with_name(f"{folder.name}-copy"))

    ended = Forked(both).wait()
    folder.rmdir()  # the place of the file system
    if ended.code == 0:
        folder.with_name(f"{folder.name}-copy").rename(folder)
    return ended


def mount_small_disk(folder: Path, size: int = 16 << 20) -> None:
    """Mounts a file system of some megabytes that only this process sees.

    Raises:
        PermissionError: The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts, private = 0x10000000, 0x00020000, 1 << 18 | 1 << 14
    spaces = new_mounts if os.geteuid() == 0 else new_user | new_mounts
    done = libc.unshare(spaces) == 0
    done = done and libc.mount(b"none", b"/", None, private, None) == 0
    about = f"size={size}".encode()
    if not done or libc.mount(b"none", bytes(folder), b"tmpfs", 0, about) != 0:
        raise PermissionError(ctypes.get_errno(), "mounting is not allowed")


def fill(path: Path) -> None:
    """Fills the disk of a path to its last byte."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# ---- what a run ends with ----------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, Any]:
    """All that a run folder holds, in a form that compares, without times.

    Pages show times and `logs/` has a folder for each start; the curves that a page draws of these
    are compared instead. The checkpoint before the last may be one inside of an epoch.
    """
    found: dict[str, Any] = {}
    if (folder / "results").exists():  # of a sweep, whose killed runs have no times
        rows = (without_times(record.row) for record in read_results(folder / "results"))
        found["results"] = [row for row in rows if row["kind"] != "timing"]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        own = path.name in ("previous.ckpt", "seconds.jsonl", ".lock")
        own |= path.suffix in (".lock", ".log")
        if path.is_dir() or own or {"logs", "results"} & set(path.parts):
            continue
        found[name] = _content(path)
    for logs in folder.rglob("logs"):
        found[str(logs.relative_to(folder))] = _curves(logs.parent)
    return found


def _curves(folder: Path) -> Any:
    from trimlab.runs.page.curves import read_curves

    return read_curves(folder, "accuracy")


def _content(path: Path) -> Any:
    if path.suffix == ".html":
        return "a page"
    if path.suffix == ".jsonl":
        return [without_times(row) for row in read_rows(path)]
    if path.name in ("summary.json", "modelcard.json"):
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)
        weights = {k: v.numpy().tobytes() for k, v in state["state_dict"].items()}
        return weights, state["trimlab"], state["global_step"], state["epoch"]
    return path.read_bytes()


def without_times(value: Any) -> Any:
    """A JSON value without what measures an execution."""
    if isinstance(value, list):
        return [without_times(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {k: without_times(v) for k, v in value.items() if k not in {*TIMING_FIELDS, "hours"}}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of the files that only one of two snapshots has, or that differ."""
    return sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))


# ---- scenarios ---------------------------------------------------------------------------------


def trimming(base: Path, rows: Path, **options: Any) -> RunIn:
    """A run by the published algorithm: two drops, two models, and one at full depth."""

    def run(folder: Path) -> None:
        import trimlab

        trimlab.trim(
            str(base),
            "jsonl",
            folder,
            model={"lr": 1e-2} | options.get("model", {}),
            data={"root": rows, "calibration_rows": 10, "dev_rows": 10, "test_rows": 10},
            run={"speed": False} | options.get("run", {}),
            trainer={"enable_progress_bar": False, "accelerator": "cpu"},
            target_layer_memory=0.5,
            save_at=[0.75],
            packable=True,
            progress=False,
            r=0.5,
        )

    return run


def taught(base: Path, rows: Path) -> RunIn:
    """A run with a teacher: the model that is fine-tuned at full depth first."""
    return trimming(
        base,
        rows,
        model={"loss": "hidden_states"},
        run={"trim_from": "fine_tuned", "fine_tuning_epochs": 2},
    )


def swept(base: Path, rows: Path) -> RunIn:
    """A sweep of two runs, all in one process."""
    few = dict.fromkeys(("calibration_rows", "dev_rows", "test_rows"), 10)
    config = {
        "model": {"base": str(base)},
        "data": {"task": "jsonl", "root": str(rows), "train_rows": 16, "batch_size": 8, **few},
        "trim": {"max_drops": 1, "progress": False},
        "run": {"eval_tasks": [], "speed": False},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }

    def run(folder: Path) -> None:
        from trimlab.runs import plan
        from trimlab.runs.sweep import Sweep

        experiment = rows.parent / "letters.yaml"
        (rows.parent / "profiles").mkdir(exist_ok=True)
        (rows.parent / "profiles" / "tiny.yaml").write_text(json.dumps(config))
        experiment.write_text(json.dumps({"runs": [{"trim.scorer": ["two_step", "random"]}]}))
        if experiment not in plans:  # which takes longer than the runs
            plans[experiment] = plan.plan(experiment, "tiny")
        sweep = Sweep(
            plans[experiment],
            folder / "results",
            folder / "runs",
            keep_models=True,
            launcher=InThisProcess(),
        )
        assert sweep() == []

    plans: dict[Path, Any] = {}
    return run


class InThisProcess(Launcher):
    """Makes a run when it is started."""

    at_once = max_queued = 1

    def __init__(self, jobs: int | None = None):
        pass

    def start(self, fits: Sequence[Fit]) -> Sequence[Job]:
        return [Made(fit) for fit in fits]

    def stop(self, jobs: Sequence[Any]) -> None:
        pass


class Made(Job):
    def __init__(self, fit: Fit):
        try:
            cli.main(fit.command[3:])
        except SystemExit as stop:
            self.end = Ended(int(stop.code or 0), 1.0)

    def poll(self) -> Ended:
        return self.end


SCENARIOS: dict[str, Callable[[Path, Path], RunIn]] = {
    "trimming": trimming,
    "taught": taught,
    "swept": swept,
}


# ---- the script --------------------------------------------------------------------------------


class Checker:
    """Resumes what a kill has left, and counts what came of it."""

    def __init__(self, run: RunIn, work: Path, expected: Mapping[str, Any]):
        self.run, self.work, self.expected = run, work, expected
        self.tried, self.failures = 0, list[str]()

    def check(self, folder: Path, name: str) -> None:
        """Resumes a run and compares its end; the folder is removed if all is well."""
        ended = Forked(self.run, folder).wait()
        if ended.code == 0:
            problem = ", ".join(differences(snapshot(folder), self.expected))
        else:
            problem = f"exit code {ended.code}: {ended.err.strip().splitlines()[-1:]}"
        self.tried += 1
        if problem:
            self.failures.append(f"{name}: {problem}")
            print(f"FAILED {self.failures[-1]}", flush=True)
        else:
            shutil.rmtree(folder)

    def check_states(self, states: Sequence[Path]) -> None:
        """Resumes from each of these states."""
        for number, state in enumerate(states):
            self.check(state, state.name)
            if number % 10 == 9:
                print(f"{number + 1} of {len(states)} states", flush=True)

    def check_kills(self, seed: int, seconds: float) -> None:
        """Kills a run, and each that resumes it, at random moments, until one comes to its end."""
        generator, folder = random.Random(seed), self.work / f"kills-{seed}"
        for _ in range(generator.randint(1, 4)):
            killed_after(self.run, folder, generator.uniform(0, seconds))
        self.check(folder, f"random kills, seed {seed}")


def main() -> None:
    """Crashes every scenario: first at all of its writes, then at random moments."""
    from tests.tiny import letters_domain, tiny_folder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", nargs="+", default=list(SCENARIOS))
    parser.add_argument("--every", type=int, default=1, help="try each n-th state only")
    parser.add_argument(
        "--distinct", action="store_true", help="pass over states with other temporary files only"
    )
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    end, failed = time.monotonic() + 60 * arguments.minutes, 0
    for name in arguments.only:
        work = Path(tempfile.mkdtemp(prefix=f"crashes-{name}-")).resolve()
        run = SCENARIOS[name](tiny_folder(work), letters_domain(work / "rows"))
        run(work / "whole")  # in this process, whose children then have all imports done
        gc.collect()
        gc.freeze()  # a run collects behind every phase
        start = time.monotonic()
        states = crash_states(run, work / "again", work / "states")
        seconds = time.monotonic() - start
        checker = Checker(run, work, snapshot(work / "whole"))
        checker.check(work / "again", "finished")
        print(f"{name}: {len(states)} states in {work}", flush=True)
        if arguments.distinct:
            states = list({_kept(state): state for state in states}.values())
        print(f"{name}: resuming from {len(states[:: arguments.every])} of them", flush=True)
        checker.check_states(states[:: arguments.every])
        seed, until = 0, time.monotonic() + (end - time.monotonic()) / 2
        while time.monotonic() < until:
            checker.check_kills(seed, seconds)
            seed += 1
        print(f"{name}: {checker.tried - len(checker.failures)} of {checker.tried} survived")
        failed += len(checker.failures)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

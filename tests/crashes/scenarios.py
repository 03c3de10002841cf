"""What is killed: small real runs that take seconds."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.crashes.kills import RunIn
from tests.golden.made_up import SUBLAYERS, answers, points, scored
from tests.ranks import fit_arguments
from trimlab import cli
from trimlab.runs.launchers._launcher import Ended, Fit, Job, Launcher


def trimming(base: Path, rows: Path, **options: Any) -> RunIn:
    """A run by the published algorithm: two drops, two models, and one at full depth."""

    def run(folder: Path) -> None:
        import trimlab

        trimlab.trim(
            str(base),
            "jsonl",
            folder,
            recipe="paper",
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
    experiment = _experiment(base, rows, {"trim.scorer": ["two_step", "random"]})
    plans: dict[Path, Any] = {}

    def run(folder: Path) -> None:
        from trimlab.runs import plan
        from trimlab.runs.sweep import Sweep

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

    return run


def side_by_side(base: Path, rows: Path) -> RunIn:
    """A sweep of four runs, of which two processes at a time make one each."""
    experiment = _experiment(base, rows, {"trim.scorer": ["two_step", "random"]})

    def run(folder: Path) -> None:
        folders = ["--results", folder / "results", "--runs", folder / "runs", "--keep_models"]
        _command("sweep", experiment, "--profile", "tiny", "--seeds", 2, *folders, "--jobs", 2)

    return run


def two_processes(base: Path, rows: Path) -> RunIn:
    """A run that is divided over two processes."""
    return lambda folder: _command(*fit_arguments(base, rows, folder, 2))


def exported(base: Path, rows: Path) -> RunIn:
    """Exports of a trimmed model. What a kill has left is whole, or not there."""
    trimmed = rows.parent / "trimmed"
    trimming(base, rows)(trimmed)

    def run(folder: Path) -> None:
        for name in ("hf", "nemotron-nas"):
            if not (folder / name).exists():
                _trimlab("export", trimmed, "--to", name, "--out", folder / name)

    return run


def bundled(base: Path, rows: Path) -> RunIn:
    """A bundle for a machine that has all packages."""
    packages = (f"{d.name}=={d.version}\n" for d in metadata.distributions())
    have = rows.parent / "have.txt"
    have.write_text("".join(sorted({p for p in packages if not p.startswith("trimlab=")})))

    def run(folder: Path) -> None:
        content = ["--base", base, "--tasks", "jsonl", "--data.root", rows, "--have", have]
        _trimlab("bundle", *content, "--python", "3.11", "--part-mb", 1, "--out", folder)

    return run


def reported(base: Path, rows: Path) -> RunIn:
    """A report of one table."""
    results = rows.parent / "results"
    results.mkdir()
    with (results / "table3.jsonl").open("w") as file:
        for seed in range(3):
            cell = {"data.task": "sciq", "trim.scorer": "two_step", "trim.r": 0.25}
            where: dict[str, Any] = {"task": "sciq", "seed": seed, "run": f"run{seed}"}
            found = points("table3", cell, SUBLAYERS[:4], [70.0 - i for i in range(5)], **where)
            found += [scored("table3", cell, "trimmed", answers(14, seed), **where)]
            found[-1] = replace(found[-1], complete=True, config={})
            file.writelines(json.dumps(row.to_row()) + "\n" for row in found)
    return lambda folder: _trimlab("report", "--results", results, "--out", folder)


def _experiment(base: Path, rows: Path, options: Mapping[str, Sequence[Any]]) -> Path:
    """An experiment of tiny runs, one for each combination of options."""
    few = dict.fromkeys(("calibration_rows", "dev_rows", "test_rows"), 10)
    profile = {
        "recipe": "paper",
        "model": {"base": str(base)},
        "data": {"task": "jsonl", "root": str(rows), "train_rows": 16, "batch_size": 8, **few},
        "trim": {"max_drops": 1, "progress": False},
        "run": {"eval_tasks": [], "speed": False},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    experiment = rows.parent / "letters.yaml"
    (rows.parent / "profiles").mkdir(exist_ok=True)
    (rows.parent / "profiles" / "tiny.yaml").write_text(json.dumps(profile))
    experiment.write_text(json.dumps({"runs": [options]}))
    return experiment


def _trimlab(*arguments: object) -> None:
    """A command in this process, which must end well."""
    assert _exit_code(arguments) == 0


def _exit_code(arguments: Sequence[object]) -> int:
    """The end of a command in this process."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def _command(*arguments: object) -> None:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "trimlab.cli", *map(str, arguments)]
    subprocess.run(command, check=True)


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
        self.end = Ended(_exit_code(fit.command[3:]), 1.0)

    def poll(self) -> Ended:
        return self.end


# every write of these is known, since they happen in one process
IN_ONE_PROCESS: dict[str, Callable[[Path, Path], RunIn]] = {
    "trimming": trimming,
    "taught": taught,
    "swept": swept,
    "exported": exported,
    "bundled": bundled,
    "reported": reported,
}
IN_SEVERAL: dict[str, Callable[[Path, Path], RunIn]] = {
    "side_by_side": side_by_side,
    "two_processes": two_processes,
}

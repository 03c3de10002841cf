"""Run folders."""

import shutil
from pathlib import Path

# what is small in a run folder: no models, no checkpoints
KEPT = ("record.jsonl", "summary.json", "config.yaml", "*.log", "logs/*", "logs/**/*.csv")


def copy_runs(runs: Path, out: Path) -> None:
    """Copies what is small in the folders of runs, and the logs beside them."""
    for log in runs.glob("*.log"):
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, out / log.name)
    for folder in (path for path in runs.iterdir() if path.is_dir() and path.name != "shared"):
        copy_run(folder, out / folder.name)


def copy_run(folder: Path, out: Path) -> None:
    """Copies what is small in a run folder: no models, no checkpoints."""
    for path in {path for pattern in KEPT for path in folder.glob(pattern) if path.is_file()}:
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

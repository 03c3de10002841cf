"""What a folder holds in the end, in a form that compares."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trimlab.records.results import read_results
from trimlab.records.rows import TIMING_FIELDS, read_rows


def snapshot(folder: Path) -> dict[str, Any]:
    """All that a run folder holds, in a form that compares, without times.

    Pages show times and `logs/` has a folder for each start; the curves that a page draws of these
    are compared instead. The checkpoint before the last may be one inside of an epoch.
    """
    found: dict[str, Any] = {}
    if (folder / "results").exists():  # of a sweep, whose killed runs have no times
        rows = (without_times(record.row) for record in read_results(folder / "results"))
        kept = (row for row in rows if row["kind"] != "timing")
        found["results"] = sorted(kept, key=lambda row: row["run"])  # which end in any order
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
    """A JSON value without what measures an execution, and without the commit of the code.

    The code may be edited while runs are killed.
    """
    if isinstance(value, list):
        return [without_times(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    left_out = {*TIMING_FIELDS, "hours", "git_commit"}
    return {k: without_times(v) for k, v in value.items() if k not in left_out}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of the files that only one of two snapshots has, or that differ."""
    return sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))

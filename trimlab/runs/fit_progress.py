"""How far a fit is, as the files of its run folder tell."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimlab.records.rows import JsonObject
from trimlab.runs.folder import RunFolder


@dataclass(frozen=True)
class FitProgress:
    """The progress of a fit.

    Attributes:
        phase: What it does, for people.
        share: About how much of the work is done, in [0, 1]. Trimming, fine-tuning at full depth
            and each baseline count alike, testing and export as nothing.
    """

    phase: str
    share: float


def fit_progress(folder: RunFolder) -> FitProgress:
    """Reads the progress of the fit in a run folder; a file that is not there yet is no error."""
    config, summary = _read_yaml(folder), _read_json(folder)
    if not config:
        return FitProgress("loading", 0)
    options = config.get("run", {})
    baselines = list(options.get("compare") or [])
    fine_tuned_first = options.get("trim_from") == "fine_tuned"
    full_depth = fine_tuned_first or bool(options.get("full_depth", True))
    parts = 1 + full_depth + len(baselines)
    if "untrimmed" not in summary:
        return FitProgress("testing the untrimmed model", 0)
    if fine_tuned_first and "fine_tuned" not in summary:
        return FitProgress("fine-tuning at full depth", 0)
    if "stopped_because" not in summary:
        return _trimming(folder, config.get("trim", {}), int(fine_tuned_first), parts)
    if "models" not in summary:
        return FitProgress("exporting", (1 + fine_tuned_first) / parts)
    if full_depth and "fine_tuned" not in summary:
        return FitProgress("fine-tuning at full depth", 1 / parts)
    for number, name in enumerate(baselines):
        if name not in summary.get("compared", {}):
            return FitProgress(f"baseline {name}", (1 + full_depth + number) / parts)
    return FitProgress("ending", 1)


class FitWatch:
    """The progress and the remaining time of a fit that has just been started.

    Args:
        folder: Its run folder.
        seconds: Time that such a run takes, or None if it is unknown.

    Attributes:
        progress: Its progress at the last update.
    """

    def __init__(self, folder: Path, seconds: float | None):
        self._folder, self._seconds = RunFolder(folder), seconds
        self.update()
        self._at_start, self._start = self.progress.share, time.perf_counter()

    def update(self) -> None:
        """Reads the progress."""
        self.progress = fit_progress(self._folder)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float | None:
        """Remaining seconds, or None as long as nothing is known."""
        return seconds_left(self._seconds, self.elapsed, self._at_start, self.progress.share)


def seconds_left(
    seconds: float | None, elapsed: float, share_at_start: float, share: float
) -> float | None:
    """Remaining seconds of a fit.

    Args:
        seconds: Time that such a run takes in all, or None if it is unknown.
        elapsed: Seconds since its start.
        share_at_start: Share of the work that was done before its start: it was resumed.
        share: Share that is done now.
    """
    if seconds is not None:
        return max(0.0, seconds * (1 - share_at_start) - elapsed)
    gained = share - share_at_start
    return elapsed * (1 - share) / gained if gained > 0 else None


# ---- inside ------------------------------------------------------------------------------------


def _trimming(folder: RunFolder, trim: JsonObject, done: int, parts: int) -> FitProgress:
    point = _last_row(folder)
    if point is None:
        return FitProgress("trimming", done / parts)
    share, layers = _share_of_trimming(point, trim), point["layer_memory_ratio"]
    return FitProgress(f"trimming: layers {100 * layers:.0f} %", (done + share) / parts)


def _share_of_trimming(point: JsonObject, trim: JsonObject) -> float:
    """How far an operating point is on the way to the nearest target; 0 if nothing is known."""
    shares = [0.0]
    for name in ("layer_memory", "model_memory"):
        if (target := trim.get(f"target_{name}")) is not None and target < 1:
            shares.append((1 - point[f"{name}_ratio"]) / (1 - target))
    if drops := trim.get("max_drops"):
        shares.append(len(point["history"]) / drops)
    return min(1.0, max(shares))


def _last_row(folder: RunFolder) -> JsonObject | None:
    """The last whole row of the record, without reading the others: scans are long."""
    try:
        with folder.record.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - 100_000))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None


def _read_json(folder: RunFolder) -> dict[str, Any]:
    try:
        return json.loads(folder.summary.read_text())
    except (OSError, ValueError):
        return {}


def _read_yaml(folder: RunFolder) -> dict[str, Any]:
    try:
        return yaml.load(folder.config.read_text(), yaml.CSafeLoader) or {}
    except (OSError, yaml.YAMLError):
        return {}

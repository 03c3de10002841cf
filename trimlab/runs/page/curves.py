"""Training curves of a fit, read from the CSV logs in its folder."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Curve = list[tuple[int, float]]  # optimizer step, value


@dataclass(frozen=True)
class Curves:
    """Curves over the optimizer steps.

    Attributes:
        loss: Training loss of every step.
        dev: Dev score of every epoch.
    """

    loss: Curve
    dev: Curve


def read_curves(folder: Path, metric: str) -> Curves:
    """Reads the curves of a fit, each step once.

    Every start of a fit writes a log of its own. A resumed fit repeats the steps after its
    checkpoint, so a log counts up to the first step of the next one.

    Args:
        folder: Folder of the fit.
        metric: Name of the dev metric.
    """
    found: dict[str, Curve] = {"train_loss": [], f"dev_{metric}": []}
    logs = (folder / "logs").glob("version_*/metrics.csv")
    for log in sorted(logs, key=lambda path: int(path.parent.name.rpartition("_")[2])):
        rows = list(_rows(log))
        first = min((step for step, _ in rows), default=math.inf)
        for name, curve in found.items():
            curve[:] = [(step, value) for step, value in curve if step < first]
            curve += [(step, values[name]) for step, values in rows if name in values]
    return Curves(*found.values())


def thinned(curve: Sequence[tuple[int, float]], most: int = 200) -> tuple[Curve, int]:
    """A curve with fewer points, each a mean over equally many steps.

    Args:
        curve: The curve.
        most: Largest number of points.

    Returns:
        The points, at the middle step of each mean, and the number of steps of a mean.
    """
    size = max(1, -(-len(curve) // most))
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    means = [
        (part[len(part) // 2][0], sum(value for _, value in part) / len(part)) for part in parts
    ]
    return means, size


def _rows(log: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and finite values of every row; a row that a killed process left unfinished is none."""
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                values = {k: float(v) for k, v in row.items() if k and v and k != "step"}
                step = int(row["step"]) + 1  # the log counts those that came before
            except (KeyError, TypeError, ValueError):
                continue
            yield step, {k: v for k, v in values.items() if math.isfinite(v)}

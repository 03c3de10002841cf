"""Growth: cost of a scan and of an epoch over the model's size, the calibration set and r."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.figure4 import SPARSE, N, one_drop_per_epoch, two_drops_per_epoch
from analysis.figures import Data, Figure
from analysis.measurements import DEFAULT_R
from analysis.names import benchmark_title, ratio_title, workload_title
from analysis.paper import Paper
from analysis.style import COLOURS, PAPER_COLOUR, look_of, nothing_measured, panels
from analysis.tables import anchor
from trimlab.records.results import Record, Records


@dataclass(frozen=True)
class Axis:
    """One axis of growth.

    Attributes:
        title: Title of the panel.
        label: Label of the horizontal axis.
        symbol: Symbol of the quantity in the formula of the fitted line.
        powers: Powers of the quantity in that formula.
    """

    title: str
    label: str
    symbol: str
    powers: tuple[int, int]


AXES = {
    # a candidate restarts at its own sublayer: N / 2 sublayers on average, and one head
    "sublayers": Axis("a scan, by sublayers", "sublayers N", "N", (2, 1)),
    "items": Axis("a scan, by items", "calibration items", "items", (1, 0)),
    "context_tokens": Axis("a scan, by context", "tokens of an item's context", "tokens", (1, 0)),
    "r": Axis("an epoch, by r", "sparse update ratio r", "r", (1, 0)),
}

# drops per epoch, and the time until n_d sublayers are dropped
SCHEMES: dict[str, tuple[int, Callable[[int, int, float], float]]] = {
    "one drop per epoch (Eq. 5)": (1, one_drop_per_epoch),
    "two drops per epoch (Eq. 6)": (2, two_drops_per_epoch),
}


def build(records: Records, paper: Paper) -> Figure:
    """Scans and epochs along each axis, and both in a whole run by the formulas."""
    benchmarks = records.where(kind="bench", bench="growth")
    axes = {axis: _lines(axis, benchmarks) for axis in AXES}
    machines = list(dict.fromkeys(benchmark_title(record) for record in benchmarks))
    measured_on = "".join(f" Machine {i}: {name}." for i, name in enumerate(machines, start=1))
    if any(record.dirty for record in benchmarks):
        measured_on += " Some of it was measured with code that is in no commit."
    return Figure(
        "Growth: what a scan and an epoch cost",
        "Median seconds, with a bar from the fastest to the slowest turn. The lines are fitted to "
        "the points (least squares of relative deviations): over N sublayers a scan restarts N "
        "candidates, each at its own sublayer, so that it costs N²/2 sublayers and N heads; items "
        "and tokens add to a fixed cost; an epoch grows with its share r of weight gradients. "
        "That line leaves r = 1 out, which trains the embeddings too, and the MLPs, which every "
        f"second or fourth sublayer is not; the square is the paper's {SPARSE:g} of full "
        "fine-tuning. Epochs of a run: Eq. 5 and Eq. 6 for this "
        "model's N, in epochs of full fine-tuning at full depth; dashed, with the measured time "
        "of an epoch at r = 1/4. Scans of a run, which the formulas leave out: those that choose "
        f"the drops, in scans of the whole model, by the first line.{measured_on}",
        {"machines": machines, "axes": axes, "run": _run(axes, benchmarks)},
        draw,
    )


def _lines(axis: str, records: Iterable[Record]) -> list[Data]:
    """Lines along an axis: each has the points that differ in the value only, and their fit."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.entry("cell", "axis", str) == axis:
            work = workload_title(record, "axis", "value", axis)
            held = (work, benchmark_title(record), record["seed"])
            groups.setdefault(held, []).append(record)
    lines = []
    for (work, machine, _), found in groups.items():
        found.sort(key=_value)
        points = [_point(record) for record in found]
        fitted = [point for point in points if axis != "r" or point["value"] < 1]
        line = {"work": work, "machine": machine, "points": points}
        lines.append(line | {"fit": fit(fitted, AXES[axis].powers)})
    return lines


def _value(record: Record) -> float:
    return record.entry("cell", "value", float)


def _point(record: Record) -> Data:
    return {
        "value": _value(record),
        "seconds": record["ours_seconds"],
        "fastest": min(record["ours_turns"]),
        "slowest": max(record["ours_turns"]),
        "record": anchor(record),
    }


def fit(points: Sequence[Data], powers: Sequence[int]) -> list[float] | None:
    """Coefficients of a sum of powers; None if the points are too few to check the fit."""
    if len(points) <= len(powers):
        return None
    seconds = np.array([point["seconds"] for point in points])
    values = np.array([float(point["value"]) for point in points])
    terms = np.stack([values**power for power in powers], axis=1)
    # relative deviations, so that small times count as much as large ones
    return np.linalg.lstsq(terms / seconds[:, None], np.ones_like(seconds))[0].tolist()


def fitted(coefficients: Sequence[float], powers: Sequence[int], value: float) -> float:
    """Value of a fitted line."""
    return sum(c * value**power for c, power in zip(coefficients, powers, strict=True))


def _run(axes: dict[str, list[Data]], records: Records) -> Data:
    """Eq. 5 and Eq. 6 in units of the first epoch, and the scans in units of the first scan."""
    n = max((record.entry("cell", "sublayers", int, 0) for record in records), default=N)
    scan = next((line["fit"] for line in axes["sublayers"] if line["fit"]), None)

    def scans(n_d: int, drops: int) -> float:
        powers = AXES["sublayers"].powers
        costs = [fitted(scan or (), powers, left) for left in range(n, n - n_d, -drops)]
        return sum(costs) / costs[0]

    curves = []
    for scheme, (drops, time) in SCHEMES.items():
        n_ds = list(range(drops, n, drops))
        curves.append(
            {
                "scheme": scheme,
                "n_d": n_ds,
                "epochs": [time(n_d, n, 1 / n) for n_d in n_ds],
                "scans": [scans(n_d, drops) for n_d in n_ds] if scan else None,
            }
        )
    return {"n": n, "sparse": _sparse(axes["r"]), "curves": curves}


def _sparse(lines: Iterable[Data]) -> float | None:
    """Time of an epoch at the default r over that of full fine-tuning."""
    for line in lines:
        seconds = {point["value"]: point["seconds"] for point in line["points"]}
        if DEFAULT_R in seconds and 1 in seconds:
            return seconds[DEFAULT_R] / seconds[1]
    return None


# ---- drawing ----------------------------------------------------------------------------------


def draw(data: Data) -> Any:
    """One panel per axis, and two panels for a run."""
    figure, (*places, epochs, scans) = panels(len(AXES) + 2, width=3.8)
    for place, (name, lines) in zip(places, data["axes"].items(), strict=True):
        axis = AXES[name]
        labels = [_label(line, data["machines"]) for line in lines]
        looks = look_of(labels)
        for line, label in zip(lines, labels, strict=True):
            _draw_line(place, axis, line, label, *looks[label])
        if name == "r":
            _draw_published(place, lines)
        place.set_title(axis.title)
        place.set_xlabel(axis.label)
        place.set_ylabel("seconds")
        _finish(place)
    _draw_run(epochs, scans, data["run"])
    return figure


def _finish(place: Any) -> None:
    """Axes from zero, and room above the lines for the legend."""
    if not place.has_data():
        nothing_measured(place)
        return
    legend = place.legend(loc="upper left", fontsize=6.5)
    texts = [text.get_text() for text in legend.get_texts()]
    room = min(0.6, 0.07 + 0.05 * len("\n".join(texts).split("\n")))
    place.set_xlim(0)
    place.set_ylim(0, place.get_ylim()[1] / (1 - room))


def _label(line: Data, machines: list[str]) -> str:
    machine = f", machine {machines.index(line['machine']) + 1}" if len(machines) > 1 else ""
    return line["work"] + machine


def _draw_line(place: Any, axis: Axis, line: Data, label: str, colour: str, marker: str) -> None:
    values = [point["value"] for point in line["points"]]
    seconds = [point["seconds"] for point in line["points"]]
    below = [point["seconds"] - point["fastest"] for point in line["points"]]
    above = [point["slowest"] - point["seconds"] for point in line["points"]]
    if line["fit"]:
        across = np.linspace(0, max(values), 100)
        drawn = [fitted(line["fit"], axis.powers, value) for value in across]
        place.plot(across, drawn, color=colour, lw=1)
        label += f"\nline: {formula(axis, line['fit'])}"
    place.errorbar(
        values, seconds, yerr=[below, above], ls="", marker=marker, color=colour, capsize=2.5,
        lw=0.9, label=label,
    )  # fmt: skip


def _draw_published(place: Any, lines: Iterable[Data]) -> None:
    """Points at the paper's share of the epochs at r = 1."""
    full = [p["seconds"] for line in lines for p in line["points"] if p["value"] == 1]
    if full:
        place.plot(
            [DEFAULT_R] * len(full), [SPARSE * seconds for seconds in full], ls="", marker="s",
            mfc="white", color=PAPER_COLOUR, label=f"published: {SPARSE:g} of r = 1",
        )  # fmt: skip


def formula(axis: Axis, coefficients: Sequence[float]) -> str:
    """The formula of a fitted line as text."""
    powers = {2: f" {axis.symbol}²", 1: f" {axis.symbol}", 0: ""}
    (first, second), (high, low) = coefficients, axis.powers
    sign = "−" if second < 0 else "+"
    return f"{first:.2g}{powers[high]} {sign} {abs(second):.2g}{powers[low]}"


def _draw_run(epochs: Any, scans: Any, run: Data) -> None:
    for curve, colour in zip(run["curves"], COLOURS, strict=False):
        epochs.plot(curve["n_d"], curve["epochs"], color=colour, label=curve["scheme"])
        if run["sparse"]:
            sparse = [run["sparse"] * time for time in curve["epochs"]]
            label = f"× {run['sparse']:.2f}, as measured at r = {ratio_title(DEFAULT_R)}"
            epochs.plot(curve["n_d"], sparse, color=colour, ls="--", label=label)
        if curve["scans"]:
            scheme = curve["scheme"].partition(" (")[
                0
            ]  # without its formula, which is that of the epochs
            scans.plot(curve["n_d"], curve["scans"], color=colour, label=scheme)
    for place, what, unit in ((epochs, "epochs", "full epochs"), (scans, "scans", "whole scans")):
        place.set_title(f"{what} of a run, N = {run['n']}")
        place.set_xlabel("sublayers dropped")
        place.set_ylabel(unit)
        _finish(place)

"""Figure 4: fine-tuning time by scheme (Eq. 5 and Eq. 6), and as measured."""

from itertools import accumulate
from typing import Any

from analysis.figures import Data, Figure
from analysis.measurements import override, scorer_of, update_ratio_of
from analysis.names import ratio_title, task_title
from analysis.paper import Paper
from analysis.style import COLOURS, look_of, nothing_measured, panels
from analysis.tables import anchor
from trimlab.records.results import Record, Records

N = 64  # sublayers of LLaMA-7B
C = 1.0  # time of one epoch over one sublayer
SPARSE = 0.6  # published time of sparse fine-tuning, as a share of full fine-tuning's

SCHEMES = {
    "full fine-tuning, as many epochs": (1, False),
    "one drop per epoch (Eq. 5)": (1, True),
    "two drops per epoch (Eq. 6)": (2, True),
}


def one_drop_per_epoch(n_d: int, n: int = N, c: float = C) -> float:
    """Eq. 5: epochs over n, n - 1, ... sublayers until n_d are dropped."""
    return c * n_d * (n - (n_d - 1) / 2)


def two_drops_per_epoch(n_d: int, n: int = N, c: float = C) -> float:
    """Eq. 6: epochs over n, n - 2, ... sublayers until n_d (even) are dropped."""
    return c * (n_d / 2) * (n - n_d / 2 + 1)


def build(records: Records, paper: Paper) -> Figure:
    """The paper's curves, and the times of runs, each in units of its own full epoch."""
    # only the experiments about time: other runs may have shared their machine
    mine = records.where(kind="operating_point").of("figure4", "table9")
    mine = Records(tuple(p for p in mine if scorer_of(p) == "two_step"))
    runs = [_run(mine.where(run=run)) for run in dict.fromkeys(p["run"] for p in mine)]
    half = [SPARSE * two_drops_per_epoch(N // 2) / (C * N), 5.0]
    return Figure(
        "Figure 4: fine-tuning time by scheme",
        f"Left: the paper's formulas for N = {N}, c = {C:g}; sparse fine-tuning multiplies by "
        f"{SPARSE:g}. (By Eq. 6, two drops per epoch with r = 1/4 reach half of the sublayers at "
        f"the cost of {half[0]:.2f} full epochs; the paper's text says {half[1]:g}.) Right: "
        "training time of measured runs over the share of sublayers dropped, healing included, in "
        f"full epochs: a sparse run's first epoch counts {SPARSE:g} of one. The line is the sum "
        "behind the formulas for the run's own drops. Open markers: with the scans, which the "
        "formulas leave out.",
        {"n": N, "c": C, "sparse": SPARSE, "curves": curves(), "measured": [r for r in runs if r]},
        draw,
    )


def curves(n: int = N, c: float = C) -> list[Data]:
    """Time over the number of dropped sublayers, by scheme, full and sparse."""
    found = []
    for sparse in (False, True):
        share = SPARSE if sparse else 1.0
        for name, (drops, trims) in SCHEMES.items():
            n_ds = list(range(drops, n, drops))
            time = {(1, True): one_drop_per_epoch, (2, True): two_drops_per_epoch}
            times = [time[drops, trims](k, n, c) if trims else c * n * k for k in n_ds]
            found.append(
                {
                    "scheme": name,
                    "drops_per_epoch": drops if trims else 0,
                    "sparse": sparse,
                    "n_d": n_ds,
                    "time": [share * t for t in times],
                }
            )
    return found


def _run(points: Records) -> Data | None:
    """A run's time in full epochs; None if its first epoch was not at full depth."""
    in_order = sorted(points, key=lambda point: point["step"])
    first = in_order[0]
    training = [point["seconds"] - point["scan_seconds"] for point in in_order]
    if first["history"] or training[0] <= 0:
        return None
    r = update_ratio_of(first)
    n = sum(len(entry.sublayers) for entry in first["scan"])
    scans = [point["scan_seconds"] for point in in_order]
    ends = [point["epoch"] + 1 for point in in_order]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    left = [n - len(point["history"]) for point in in_order]
    share = SPARSE if r < 1 else 1.0
    formula = [
        share * epochs * sublayers / n for epochs, sublayers in zip(lengths, left, strict=True)
    ]
    unit = training[0] / formula[0]  # seconds of an epoch at full depth
    return {
        "task": first["task"],
        "base": first["base"],
        "seed": first["seed"],
        "r": r,
        "drops_per_step": override(first, "trim.drops_per_step", int | list[int], _drops(in_order)),
        "n": n,
        "dropped": [len(point["history"]) for point in in_order],
        "time": [time / unit for time in accumulate(training)],
        "time_with_scans": [
            (time + scan) / unit
            for time, scan in zip(accumulate(training), accumulate(scans), strict=True)
        ],
        "formula": list(accumulate(formula)),
        "records": [anchor(point) for point in in_order],
    }


def _drops(points: list[Record]) -> int | None:
    """The most frequent number of drops per step."""
    counts = [len(point["dropped"]) for point in points[1:]]
    return max(set(counts), key=counts.count) if counts else None


def _name(run: Data) -> str:
    return (
        f"{task_title(run['task'])}, {run['drops_per_step']} per step, r = {ratio_title(run['r'])}"
    )


def draw(data: Data) -> Any:
    """The formulas; beside them the measured runs."""
    figure, (left, right) = panels(2, width=4.4, height=3.4, columns=2)
    schemes = list(SCHEMES)
    for curve in data["curves"]:
        colour = COLOURS[schemes.index(curve["scheme"])]
        dashes = "--" if curve["sparse"] else "-"
        label = curve["scheme"] + (f" × {data['sparse']:g}" if curve["sparse"] else "")
        left.plot(curve["n_d"], curve["time"], color=colour, ls=dashes, label=label)
    left.set_title(f"N = {data['n']}, c = {data['c']:g}")
    left.set_xlabel("sublayers dropped")
    left.set_ylabel("time T(N)")
    left.set_ylim(
        0, 2.2 * max(c for x in data["curves"] if x["drops_per_epoch"] for c in x["time"])
    )
    left.legend(loc="upper left", fontsize=6.5)
    looks = look_of(list(dict.fromkeys(_name(run) for run in data["measured"])))
    for run in data["measured"]:
        colour, marker = looks[_name(run)]
        shares = [100 * dropped / run["n"] for dropped in run["dropped"]]
        right.plot(shares, run["formula"], color=colour, lw=0.9)
        right.plot(shares, run["time"], color=colour, marker=marker, ls="", label=_name(run))
        right.plot(shares, run["time_with_scans"], color=colour, marker=marker, ls="", mfc="none")
    handles, labels = right.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        right.legend(once.values(), once, loc="upper left", fontsize=6.5)
    else:
        nothing_measured(right)
    right.set_title("measured")
    right.set_xlabel("sublayers dropped, %")
    right.set_ylabel("full epochs")
    return figure

"""Figure 3: dropping patterns by task and by bypass."""

from typing import Any

from matplotlib import colormaps
from matplotlib.colors import Normalize

from analysis.figures import Data, Figure
from analysis.measurements import DEFAULT_R, bypass_of, other_overrides, scorer_of, update_ratio_of
from analysis.names import task_order, task_title
from analysis.paper import Paper
from analysis.style import DROPPED_COLOUR, SCORE_COLOURS, nothing_measured, panels
from analysis.tables import anchor
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.results import Records

KINDS = ("attention", "mlp")
DROPPED = -1.0
# Quantile of the scores at the end of the colour scale: a few outliers would take all of it
BRIGHTEST = 0.9


def build(records: Records, paper: Paper) -> Figure:
    """Every run of the two-step algorithm at r = 1/4."""
    points = Records(
        tuple(
            point
            for point in records.where(kind="operating_point")
            if (scorer_of(point), update_ratio_of(point)) == ("two_step", DEFAULT_R)
        )
    )
    runs = [points.where(run=run) for run in dict.fromkeys(p["run"] for p in points)]
    patterns = [_pattern(run) for run in runs]
    patterns.sort(key=_place)
    return Figure(
        "Figure 3: dropping patterns",
        "A line per scan, from the top down; a column per sublayer, attention (a) and MLP (m) of "
        "every block. Colour: the score, the lowest of a line is dropped (cross) and stays dropped "
        f"({DROPPED:g}, grey). The scale ends at the {BRIGHTEST:.0%} quantile of the scores. "
        "Dots: scans that stop at the choice know only that a score is not lower. "
        "The authors' released code replaces the residual stream by its normalised copy where an "
        "attention is dropped; with the residual bypass it passes unchanged.",
        {"patterns": patterns},
        draw,
        interactive,
    )


def _place(pattern: Data) -> tuple[Any, ...]:
    """Sort key: by task, the residual bypass first, runs of Figure 3 and Table 3 before others."""
    return (
        task_order(pattern["task"]),
        pattern["bypass"] != "residual",
        pattern["overrides"],
        pattern["experiment"] not in ("figure3", "table3"),
        pattern["seed"],
    )


def _pattern(run: Records) -> Data:
    records = sorted(run, key=lambda record: record["step"])
    findings = [record.result.finding for record in records]
    points = [finding for finding in findings if isinstance(finding, OperatingPoint)]
    sublayers = _sublayers(points)
    rows = [_scores(point, sublayers) for point in points]
    marked = [[sublayers.index(s) for s in point.dropped] for point in points]
    bounds = [[sublayers.index(s) for s in _stopped_early(point)] for point in points]
    first, last = records[0], points[-1]
    # the end of the run: no scan, but the drops
    rows.append([DROPPED if s in last.history else None for s in sublayers])
    marked.append([])
    bounds.append([])
    return {
        "task": first["task"],
        "base": first["base"],
        "bypass": bypass_of(first),
        "seed": first["seed"],
        "overrides": other_overrides(first),
        "experiment": first.experiments[0],
        "run": first["run"],
        "sublayers": sublayers,
        "scores": rows,
        "limits": _limits(rows),
        "dropped": marked,
        "bounds": bounds,
        "counts": {kind: sum(s.endswith(kind) for s in last.history) for kind in KINDS},
        "layer_memory_ratio": last.layer_memory_ratio,
        "records": [anchor(record) for record in records],
    }


def _scores(point: OperatingPoint, sublayers: list[str]) -> list[float | None]:
    """The score of every sublayer in the scan of a point, `DROPPED` for earlier drops."""
    gone = set(point.history) - set(point.dropped)
    scores: dict[str, float] = {}
    for entry in point.scan:
        for sublayer in entry.sublayers:
            # of a sublayer in two pairs, the lower score decides
            scores[sublayer] = min(entry.score[0], scores.get(sublayer, entry.score[0]))
    return [DROPPED if s in gone else scores.get(s) for s in sublayers]


def _stopped_early(point: OperatingPoint) -> list[str]:
    """Sublayers whose scan ended before the last item, since their score was not the lowest."""
    items = [entry.statistics.get("items", 0) for entry in point.scan]
    names = {
        name
        for entry, met in zip(point.scan, items, strict=True)
        if met < max(items)
        for name in entry.sublayers
    }
    return sorted(names)


def _limits(rows: list[list[float | None]]) -> tuple[float, float]:
    """The scores at the ends of the colour scale."""
    known = sorted(s for row in rows for s in row if s is not None and s != DROPPED)
    if not known:
        return 0.0, 1.0
    low, high = known[0], known[int(BRIGHTEST * (len(known) - 1))]
    return low, high if high > low else known[-1]


def _sublayers(points: list[OperatingPoint]) -> list[str]:
    """Every scanned or dropped sublayer, in the order of the model."""
    names = {s for point in points for s in point.history}
    names |= {s for point in points for entry in point.scan for s in entry.sublayers}

    def place(name: str) -> tuple[int, int]:
        block, _, kind = name.partition(".")
        return int(block), KINDS.index(kind)

    return sorted(names, key=place)


def pattern_title(pattern: Data) -> str:
    """The title of a panel: the run, and the number of drops of each kind."""
    counts = pattern["counts"]
    run = f"{pattern['bypass']} bypass{pattern['overrides']}, seed {pattern['seed']}"
    dropped = f"dropped {counts['mlp']} MLPs and {counts['attention']} of the attentions"
    return f"{task_title(pattern['task'])}, {run} ({pattern['experiment']}): {dropped}"


def draw(data: Data) -> Any:
    """A heat map of the first run of every task and bypass, one below the other.

    Runs with other overrides (such as those about time) are on the page only.
    """
    first: dict[tuple[str, str], Data] = {}
    for pattern in data["patterns"]:
        if not pattern["overrides"]:
            first.setdefault((pattern["task"], pattern["bypass"]), pattern)
    patterns = list(first.values())
    height = 0.9 + 0.14 * max((len(p["scores"]) for p in patterns), default=10)
    figure, axes = panels(len(patterns), width=8, height=height, columns=1)
    if not patterns:
        nothing_measured(axes[0])
    for axis, pattern in zip(axes, patterns, strict=False):
        colours = colormaps[SCORE_COLOURS].with_extremes(under=DROPPED_COLOUR, bad="white")
        grid = [[float("nan") if s is None else s for s in row] for row in pattern["scores"]]
        scale = Normalize(*pattern["limits"])
        image = axis.imshow(grid, aspect="auto", cmap=colours, norm=scale, interpolation="none")
        for row, columns in enumerate(pattern["dropped"]):
            axis.plot(columns, [row] * len(columns), ls="", marker="x", color="#D55E00", ms=4)
        for row, columns in enumerate(pattern["bounds"]):
            axis.plot(columns, [row] * len(columns), ls="", marker=".", color="white", ms=2)
        axis.set_title(pattern_title(pattern))
        axis.set_xticks(range(len(pattern["sublayers"])))
        axis.set_xticklabels([_short(s) for s in pattern["sublayers"]], fontsize=6, rotation=90)
        axis.set_yticks(range(len(grid)))
        axis.set_yticklabels([*map(str, range(len(grid) - 1)), "end"], fontsize=6)
        axis.set_ylabel("scan")
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="score", pad=0.01, extend="max")
    return figure


def _short(sublayer: str) -> str:
    block, _, kind = sublayer.partition(".")
    return f"{block}{kind[0]}"


def interactive(data: Data) -> Data:
    """A Plotly figure of one run at a time, with the score under the pointer."""
    traces_of = [_traces(pattern) for pattern in data["patterns"]]
    owners = [i for i, traces in enumerate(traces_of) for _ in traces]
    traces = [trace for traces in traces_of for trace in traces]
    for trace, owner in zip(traces, owners, strict=True):
        trace["visible"] = owner == 0
    buttons = [
        {
            "label": pattern_title(pattern),
            "method": "update",
            "args": [{"visible": [owner == i for owner in owners]}],
        }
        for i, pattern in enumerate(data["patterns"])
    ]
    menu = {"type": "dropdown", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.16}
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "sublayer"}, "type": "category", "tickangle": -90},
            "yaxis": {"title": {"text": "scan"}, "type": "category", "autorange": "reversed"},
            "updatemenus": [{**menu, "yanchor": "top"}] if buttons else [],
        },
    }


def _traces(pattern: Data) -> list[Data]:
    """The Plotly traces of a run: scores, earlier drops, and a cross at every drop."""
    sublayers, scores = pattern["sublayers"], pattern["scores"]
    steps = [*map(str, range(len(scores) - 1)), "end"]
    records = [*pattern["records"], pattern["records"][-1]]
    heatmap = {
        "type": "heatmap",
        "x": sublayers,
        "y": steps,
        "customdata": [[record] * len(sublayers) for record in records],
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    bounds = [["≥ " * (i in row) for i in range(len(sublayers))] for row in pattern["bounds"]]
    scored = heatmap | {
        "z": [[None if s == DROPPED else s for s in row] for row in scores],
        "zmin": pattern["limits"][0],
        "zmax": pattern["limits"][1],
        "text": bounds,
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "score"}},
        "hovertemplate": "%{x}, scan %{y}: score %{text}%{z:.4g}<extra></extra>",
    }
    gone = heatmap | {
        "z": [[s if s == DROPPED else None for s in row] for row in scores],
        "colorscale": [[0, DROPPED_COLOUR], [1, DROPPED_COLOUR]],
        "showscale": False,
        "hovertemplate": "%{x}: dropped before scan %{y} (−1)<extra></extra>",
    }
    crosses = {
        "type": "scatter",
        "mode": "markers",
        "x": [sublayers[column] for row in pattern["dropped"] for column in row],
        "y": [steps[y] for y, row in enumerate(pattern["dropped"]) for _ in row],
        "marker": {"symbol": "x", "color": "#D55E00", "size": 7},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    return [scored, gone, crosses]

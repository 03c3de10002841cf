"""Figure 2: the Pareto frontier of accuracy and what is left of the model."""

from collections.abc import Iterable, Sequence
from typing import Any

from analysis.figure1 import published
from analysis.figures import Data, Figure
from analysis.measurements import (
    bypass_of,
    measure,
    other_overrides,
    scorer_of,
    update_ratio_of,
)
from analysis.names import TASKS, ratio_title, scorer_title, task_order, task_title
from analysis.paper import Paper, number
from analysis.style import (
    PAPER_COLOUR,
    PLOTLY_SYMBOLS,
    REFERENCE_COLOUR,
    look_of,
    nothing_measured,
    panels,
    shared_legend,
)
from analysis.tables import anchor
from trimlab.records.results import Record, Records

MEASURES = {
    "layer_memory_ratio": ("layer memory left, %", 100.0),
    "model_memory_ratio": ("whole model left, %", 100.0),
    "tokens_per_second": ("decoding speed, tokens/s", 1.0),
}


def build(records: Records, paper: Paper) -> Figure:
    """Every tested model of every experiment, and the ones that no other beats."""
    tested = [r for r in records if r["kind"] in ("test", "compressed")]
    tests = _whole([r for r in tested if r["task"] == r["evaluated_on"]])
    tasks = sorted({r["task"] for r in tests} or {"sciq", "medmcqa"}, key=task_order)
    return Figure(
        "Figure 2: Pareto frontier",
        "Test accuracy against the layer memory that is left, a mean over the seeds. The line "
        "joins the models than which none is both smaller and at least as accurate. Grey: the "
        "published values of LLaMA-7B (Table 2), with quantised weights at their published bound.",
        {"tasks": [_task(task, tests.where(task=task), paper) for task in tasks]},
        draw,
        interactive,
    )


def _whole(tests: Sequence[Record]) -> Records:
    """Those of the most items there are: a run about time has a few, and luck with them."""
    most: dict[str, int] = {}
    for record in tests:
        most[record["task"]] = max(record["n"], most.get(record["task"], 0))
    return Records(tuple(record for record in tests if record["n"] == most[record["task"]]))


def method_title(record: Record) -> str:
    """What made a model; a cell with other overrides is named by them too."""
    if record["kind"] == "compressed":
        return record["title"] + (" of a trimmed model" if record["of"] == "trimmed" else "")
    if record["model"] == "untrimmed":
        return "w/o fine-tuning"
    r = f"r = {ratio_title(update_ratio_of(record))}"
    if record["model"] == "fine_tuned":
        return f"full depth, {r}"
    title = f"{scorer_title(scorer_of(record))}, {r}"
    if bypass_of(record) != "residual":
        title += f", bypass {bypass_of(record)}"
    return title + other_overrides(record)


def frontier(points: Sequence[Data]) -> list[int]:
    """Indices of the points that no other beats, from the smallest model on.

    A point is beaten by one that is no larger and at least as accurate, and not the same in both.
    """

    def beaten(point: Data) -> bool:
        return any(
            other["layer_memory_ratio"] <= point["layer_memory_ratio"]
            and other["value"] >= point["value"]
            and (other["layer_memory_ratio"], other["value"])
            != (point["layer_memory_ratio"], point["value"])
            for other in points
        )

    kept = [i for i, point in enumerate(points) if not beaten(point)]
    return sorted(kept, key=lambda i: points[i]["layer_memory_ratio"])


def _task(task: str, tests: Records, paper: Paper) -> Data:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in tests:
        for experiment in r.experiments:
            # the same method and point of its run: what is left to differ is the seed
            key = (experiment, r["base"], method_title(r), r["asked_ratio"])
            groups.setdefault(key, []).append(r)
    # what one experiment has, another may have with more seeds, or the same
    seen: list[set[str]] = []
    points = []
    for key, rows in sorted(groups.items(), key=lambda group: -len(group[1])):
        anchors = {anchor(r) for r in rows}
        if not any(anchors <= others for others in seen):
            seen.append(anchors)
            points.append(_point(key[0], key[2], rows))
    return {
        "task": task,
        "points": points,
        "frontier": frontier(points),
        "paper": _paper(task, paper),
    }


def _point(experiment: str, method: str, rows: Iterable[Record]) -> Data:
    accuracy = measure(rows)
    assert accuracy is not None
    sizes = {}
    for name in MEASURES:
        values = [r for r in accuracy.records if r.get(name) is not None]
        measured = measure(values, name)
        sizes[name] = measured and measured.mean
    return {
        "experiment": experiment,
        "method": method,
        "value": accuracy.mean,
        "stderr": accuracy.stderr,
        "seeds": [r["seed"] for r in accuracy.records],
        "dirty": accuracy.dirty,
        "records": [anchor(record) for record in accuracy.records],
        **sizes,
    }


def _paper(task: str, paper: Paper) -> list[Data]:
    """Table 2's methods; a memory of `>25%` stands at its bound."""
    trimmed = published(task, paper)["points"]
    points = [{"method": f"TrimLLM ({100 * p['ratio']:.0f} %)", **p} for p in trimmed]
    for row in paper.rows("table2", model="LLaMA-7B"):
        value, memory = number(row.get(TASKS.get(task, ""))), row["final_memory"].lstrip(">=")
        if value is not None and not row["method"].startswith("TrimLLM"):
            ratio = float(memory.rstrip("%")) / 100
            points.append({"method": row["method"], "ratio": ratio, "value": value})
    return points


def _methods(data: Data) -> list[str]:
    return list(dict.fromkeys(p["method"] for task in data["tasks"] for p in task["points"]))


def draw(data: Data) -> Any:
    """One panel per benchmark."""
    figure, axes = panels(len(data["tasks"]), width=4.2, height=3.4)
    methods = _methods(data)
    looks = look_of(methods)
    for axis, task in zip(axes, data["tasks"], strict=True):
        axis.set_title(task_title(task["task"]))
        axis.scatter(
            [100 * p["ratio"] for p in task["paper"]],
            [p["value"] for p in task["paper"]],
            facecolors="white",
            edgecolors=PAPER_COLOUR,
            marker="s",
            s=22,
            zorder=1,
            label="LLaMA-7B, published",
        )
        best = [task["points"][i] for i in task["frontier"]]
        axis.plot(
            [100 * p["layer_memory_ratio"] for p in best],
            [p["value"] for p in best],
            color=REFERENCE_COLOUR,
            lw=1,
            zorder=2,
        )
        for method, (colour, marker) in looks.items():
            points = [p for p in task["points"] if p["method"] == method]
            if points:
                axis.errorbar(
                    [100 * p["layer_memory_ratio"] for p in points],
                    [p["value"] for p in points],
                    yerr=[p["stderr"] or 0 for p in points],
                    ls="",
                    marker=marker,
                    color=colour,
                    capsize=2,
                    lw=0.9,
                    zorder=3,
                    label=method,
                )
        if not task["points"]:
            nothing_measured(axis)
        axis.set_xlabel(MEASURES["layer_memory_ratio"][0])
        axis.set_ylabel("accuracy, %")
    shared_legend(figure)
    return figure


def interactive(data: Data) -> Data:
    """One benchmark at a time, any of the sizes across; a click leads to the record."""
    methods = _methods(data)
    looks = look_of(methods)
    traces: list[Data] = []
    owners: list[str] = []
    for task in data["tasks"]:
        for method in methods:
            points = [p for p in task["points"] if p["method"] == method]
            if points:
                traces.append(_trace(method, points, *looks[method]))
                owners.append(task["task"])
        best = [task["points"][i] for i in task["frontier"]]
        line = {
            "mode": "lines",
            "line": {"color": REFERENCE_COLOUR, "width": 1},
            "hoverinfo": "skip",
        }
        traces.append(
            {**_trace("frontier", best, REFERENCE_COLOUR), **line, "error_y": {"visible": False}}
        )
        owners.append(task["task"])
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "LLaMA-7B, published",
                "x": [100 * p["ratio"] for p in task["paper"]],
                "y": [p["value"] for p in task["paper"]],
                "text": [p["method"] for p in task["paper"]],
                "hovertemplate": "%{text}: %{y:.1f} % at %{x:.0f} %<extra>published</extra>",
                "marker": {"symbol": "square-open", "color": PAPER_COLOUR, "size": 8},
            }
        )
        owners.append(task["task"])
    first = data["tasks"][0]["task"]
    for trace, owner in zip(traces, owners, strict=True):
        trace["visible"] = owner == first
    tasks = [
        {
            "label": task_title(task["task"]),
            "method": "update",
            "args": [{"visible": [owner == task["task"] for owner in owners]}],
        }
        for task in data["tasks"]
    ]
    # only the layer memory has published values beside it and a frontier
    sizes = [
        {
            "label": title,
            "method": "update",
            "args": [{"x": [_across(t, name) for t in traces]}, {"xaxis.title.text": title}],
        }
        for name, (title, _) in MEASURES.items()
    ]
    menu = {"type": "dropdown", "showactive": True, "y": 1.16, "yanchor": "top", "xanchor": "left"}
    for trace in traces:
        trace.pop("meta", None)
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": MEASURES["layer_memory_ratio"][0]}},
            "yaxis": {"title": {"text": "accuracy, %"}},
            "hovermode": "closest",
            "updatemenus": [
                {**menu, "buttons": tasks, "x": 0},
                {**menu, "buttons": sizes, "x": 0.2},
            ],
        },
    }


def _trace(method: str, points: Sequence[Data], colour: str, marker: str = "o") -> Data:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": method,
        "x": [100 * p["layer_memory_ratio"] for p in points],
        "y": [p["value"] for p in points],
        "error_y": {"type": "data", "array": [p["stderr"] or 0 for p in points], "thickness": 1},
        "customdata": [p["records"][0] for p in points],
        "text": [_hover(p) for p in points],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "symbol": PLOTLY_SYMBOLS[marker], "size": 9},
        "meta": {
            name: [None if p[name] is None else scale * p[name] for p in points]
            for name, (_, scale) in MEASURES.items()
        },
    }


def _hover(point: Data) -> str:
    lines = [
        f"<b>{point['method']}</b> ({point['experiment']})",
        f"accuracy {point['value']:.1f} ± {point['stderr'] or 0:.1f}, seeds {point['seeds']}",
        f"layer memory {100 * point['layer_memory_ratio']:.1f} %",
        f"whole model {100 * point['model_memory_ratio']:.1f} %",
    ]
    if point["tokens_per_second"] is not None:
        lines.append(f"{point['tokens_per_second']:.1f} tokens/s")
    return "<br>".join([*lines, *(["measured with a dirty tree"] if point["dirty"] else [])])


def _across(trace: Data, name: str) -> list[float | None]:
    """The values across for a choice of the menu; none where there is no such value."""
    if name == "layer_memory_ratio":
        return trace["x"]
    if "meta" in trace and trace["mode"] == "markers":
        return trace["meta"][name]
    return [None] * len(trace["x"])

"""Figure 2: the Pareto frontier of accuracy and what is left of the model."""

from collections.abc import Iterable, Sequence
from typing import Any

from analysis._figure2_page import SIZES, interactive, method_titles
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
    REFERENCE_COLOUR,
    look_of,
    nothing_measured,
    panels,
    shared_legend,
)
from analysis.tables import anchor
from trimlab.records.results import Record, Records


def build(records: Records, paper: Paper) -> Figure:
    """Every tested model of every experiment, and the Pareto frontier."""
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
    """The tests with the most items of their task: runs about time have few items."""
    most: dict[str, int] = {}
    for record in tests:
        most[record["task"]] = max(record["n"], most.get(record["task"], 0))
    return Records(tuple(record for record in tests if record["n"] == most[record["task"]]))


def method_title(record: Record) -> str:
    """The method of a model, with the other overrides of its cell."""
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
    """Indices of the Pareto-optimal points, from the smallest model on.

    A point is beaten by another one that is no larger, at least as accurate, and not equal.
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
            # records of a group differ in the seed only
            key = (experiment, r["base"], method_title(r), r["asked_ratio"])
            groups.setdefault(key, []).append(r)
    # largest groups first: those of other experiments may be subsets of them
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
    for name in SIZES:
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
    """Table 2's methods; a memory of `>25%` is drawn at its bound."""
    trimmed = published(task, paper)["points"]
    points = [{"method": f"TrimLLM ({100 * p['ratio']:.0f} %)", **p} for p in trimmed]
    for row in paper.rows("table2", model="LLaMA-7B"):
        value, memory = number(row.get(TASKS.get(task, ""))), row["final_memory"].lstrip(">=")
        if value is not None and not row["method"].startswith("TrimLLM"):
            ratio = float(memory.rstrip("%")) / 100
            points.append({"method": row["method"], "ratio": ratio, "value": value})
    return points


def draw(data: Data) -> Any:
    """One panel per task."""
    figure, axes = panels(len(data["tasks"]), width=4.2, height=3.4)
    methods = method_titles(data)
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
        axis.set_xlabel(SIZES["layer_memory_ratio"][0])
        axis.set_ylabel("accuracy, %")
    shared_legend(figure)
    return figure

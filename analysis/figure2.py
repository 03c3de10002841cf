"""Figure 2: the Pareto frontier of accuracy and what is left of the model."""

from collections.abc import Iterable, Sequence
from typing import Any

from analysis._figure2_page import FAMILIES, PUBLISHED, SIZES, interactive
from analysis._labels import label_points
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


def family_of(record: Record) -> str:
    """The kind of a model, which its mark shows."""
    if record["kind"] == "compressed":
        return "other method, of a trimmed model" if record["of"] == "trimmed" else "other method"
    if record["model"] != "trimmed":
        return "full depth"
    return "TrimLLM" if scorer_of(record) == "two_step" else "other score or rule"


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
        "family": family_of(accuracy.records[0]),
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
    """One panel per task, with the methods beside their points."""
    size = (6.2, 5.0)
    figure, axes = panels(len(data["tasks"]), width=size[0] + 0.6, height=size[1] + 0.7, columns=1)
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
            label=PUBLISHED,
        )
        best = [task["points"][i] for i in task["frontier"]]
        axis.plot(
            [100 * p["layer_memory_ratio"] for p in best],
            [p["value"] for p in best],
            color=REFERENCE_COLOUR,
            lw=1,
            zorder=2,
            label="frontier",
        )
        for family, (colour, marker) in FAMILIES.items():
            points = [p for p in task["points"] if p["family"] == family]
            if points:
                axis.errorbar(
                    [100 * p["layer_memory_ratio"] for p in points],
                    [p["value"] for p in points],
                    yerr=[p["stderr"] or 0 for p in points],
                    ls="",
                    marker=marker,
                    color=colour,
                    elinewidth=0.5,
                    zorder=3,
                    label=family,
                )
        if not task["points"]:
            nothing_measured(axis)
        axis.margins(0.08)
        _make_room_for_labels(axis)
        axis.set_xlabel(SIZES["layer_memory_ratio"][0])
        axis.set_ylabel("accuracy, %")
        _label(axis, task, size)
    shared_legend(figure)
    return figure


def _make_room_for_labels(axis: Any) -> None:
    """Widens the axes beyond 100 %, where many points are, without ticks there."""
    left, right = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if left <= tick <= 100]
    axis.set_xlim(left, right + 0.2 * (right - left))
    axis.set_xticks(ticks)


def _label(axis: Any, task: Data, size: tuple[float, float]) -> None:
    """Names every point; points of one method at one place once."""
    found: dict[tuple[str, float, float], tuple[float, float, str]] = {}
    for p in task["points"]:
        x, y = 100 * p["layer_memory_ratio"], p["value"]
        key = (p["method"], round(x), round(y))
        found.setdefault(key, (x, y, FAMILIES[p["family"]][0]))
    for p in task["paper"]:
        key = (p["method"], round(100 * p["ratio"]), round(p["value"]))
        found.setdefault(key, (100 * p["ratio"], p["value"], PAPER_COLOUR))
    if found:
        points = [(x, y) for x, y, _ in found.values()]
        labels = [(key[0], colour) for key, (_, _, colour) in found.items()]
        label_points(axis, points, labels, size)

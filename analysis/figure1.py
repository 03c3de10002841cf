"""Figure 1: accuracy against the part of the model that is left."""

from collections.abc import Iterable
from typing import Any

from analysis.figures import Data, Figure
from analysis.measurements import DEFAULT_R, bypass_of, measure, scorer_of, update_ratio_of
from analysis.names import TASKS, task_order, task_title
from analysis.paper import Paper, number
from analysis.style import (
    COLOURS,
    PAPER_COLOUR,
    REFERENCE_COLOUR,
    nothing_measured,
    panels,
    shared_legend,
)
from analysis.tables import anchor
from trimlab.records.results import Record, Records

# Experiments of the drawn runs: for each task the first with any
EXPERIMENTS = ("figure1", "table3", "figure2")


def build(records: Records, paper: Paper) -> Figure:
    """TrimLLM's accuracy by layer memory, one panel per task."""
    papers = Records(tuple(r for r in records if _is_the_papers(r)))
    found = {task: papers.where(task=task).of(*EXPERIMENTS) for task in {r["task"] for r in papers}}
    measured = {task for task, mine in found.items() if len(mine)}
    names = sorted({*measured, "sciq", "medmcqa"}, key=task_order)
    return Figure(
        "Figure 1: accuracy against the part of the model that is left",
        "Points with bars: test accuracy ± standard error. Thin lines: dev accuracy at every "
        "operating point, one line per seed. Dashed: not fine-tuned, and fine-tuned at full depth. "
        "Grey: LLaMA-7B as published (Table 2), at the memory its rows name.",
        {"tasks": [_task(name, found.get(name, Records()), paper) for name in names]},
        draw,
    )


def _task(task: str, records: Records, paper: Paper) -> Data:
    tests = records.where(kind="test", evaluated_on=task)
    points = records.where(kind="operating_point")
    runs = dict.fromkeys(point["run"] for point in points)
    asked = {r["asked_ratio"] for r in tests.where(model="trimmed")} - {None}
    return {
        "task": task,
        "dev": [[_dev(point) for point in points.where(run=run)] for run in runs],
        "test": [
            _test(tests.where(model="trimmed", asked_ratio=ratio))
            for ratio in sorted(asked, reverse=True)
        ],
        "untrimmed": _mean(tests.where(model="untrimmed")),
        "fine_tuned": _mean(tests.where(model="fine_tuned")),
        "paper": published(task, paper),
    }


def _is_the_papers(record: Record) -> bool:
    """Whether a run has the paper's main setting: two-step, r = 1/4, the residual bypass."""
    setting = (scorer_of(record), update_ratio_of(record), bypass_of(record))
    return setting == ("two_step", DEFAULT_R, "residual")


def published(task: str, paper: Paper) -> Data:
    """LLaMA-7B's accuracies in Table 2, by the share of memory left."""
    column = TASKS.get(task, "")
    rows = {row["method"]: row for row in paper.rows("table2", model="LLaMA-7B")}
    points = []
    for method, row in rows.items():
        value = number(row.get(column))
        if method.startswith("TrimLLM") and value is not None:
            ratio = int(method.partition("(")[2].rstrip("%)")) / 100
            points.append({"ratio": ratio, "value": value})
    return {
        "points": points,
        "untrimmed": number(rows.get("w/o training", {}).get(column)),
        "fine_tuned": number(rows.get("Full-FT", {}).get(column)),
    }


def _dev(point: Record) -> Data:
    return {
        "ratio": point["layer_memory_ratio"],
        "value": point["dev"],
        "stderr": point["dev_stderr"],
        "seed": point["seed"],
        "record": anchor(point),
    }


def _test(records: Records) -> Data:
    accuracy = measure(records)
    assert accuracy is not None
    ratio = measure(records, "layer_memory_ratio")
    assert ratio is not None
    return {
        "ratio": ratio.mean,
        "value": accuracy.mean,
        "stderr": accuracy.stderr,
        "seeds": len(accuracy.records),
        "records": [anchor(record) for record in accuracy.records],
    }


def _mean(records: Records) -> float | None:
    measured = measure(records)
    return measured and measured.mean


def draw(data: Data) -> Any:
    """One panel per task; the model shrinks to the right."""
    figure, axes = panels(len(data["tasks"]))
    for axis, task in zip(axes, data["tasks"], strict=True):
        axis.set_title(task_title(task["task"]))
        _draw_published(axis, task["paper"])
        _draw_references(axis, task)
        _draw_runs(axis, task)
        axis.set_xlim(103, 17)
        axis.set_xlabel("layer memory left, %")
        axis.set_ylabel("accuracy, %")
    shared_legend(figure)
    return figure


def _draw_published(axis: Any, published: Data) -> None:
    if not published["points"]:
        return
    line = [{"ratio": 1.0, "value": published["fine_tuned"]}, *published["points"]]
    axis.plot(
        *_coordinates(line),
        color=PAPER_COLOUR,
        marker="s",
        markerfacecolor="white",
        label="LLaMA-7B, published",
    )


def _draw_references(axis: Any, task: Data) -> None:
    """Dashed lines at the accuracies of the models at full depth."""
    for name, label in (("untrimmed", "not fine-tuned"), ("fine_tuned", "full depth")):
        if task[name] is not None:
            axis.axhline(task[name], color=REFERENCE_COLOUR, lw=0.9, ls="--")
            axis.annotate(
                label,
                (1, task[name]),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color=REFERENCE_COLOUR,
            )


def _draw_runs(axis: Any, task: Data) -> None:
    """Dev accuracy of every run, and test accuracy over the seeds."""
    for i, run in enumerate(task["dev"]):
        label = "dev, one seed" if i == 0 else None
        axis.plot(*_coordinates(run), color=COLOURS[0], lw=0.8, alpha=0.5, label=label)
    if task["test"]:
        axis.errorbar(
            *_coordinates(task["test"]),
            yerr=[point["stderr"] for point in task["test"]],
            color=COLOURS[0],
            marker="o",
            capsize=2.5,
            label="test, trimmed",
        )
    elif not task["dev"]:
        nothing_measured(axis)


def _coordinates(points: Iterable[Data]) -> tuple[list[float], list[float]]:
    """Percent of memory left, and accuracy."""
    points = list(points)
    return [100 * point["ratio"] for point in points], [point["value"] for point in points]

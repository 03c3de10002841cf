"""The figures of a run's page."""

from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from trimlab.model.sublayers import Sublayer
from trimlab.records.model_result import with_stderr
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.run_summary import RunSummary
from trimlab.runs.dropping import lowest_scores
from trimlab.runs.page.chart import Axis, Chart, key, markup, svg, text
from trimlab.runs.page.curves import Curve, Curves, thinned

CELL = 18  # edge of a cell of the dropping pattern
SHADES = 5


def metric_title(metric: str) -> str:
    """The name of a metric in words, with its unit."""
    return "100 exp(-loss)" if metric == "exp_neg_loss" else f"{metric.replace('_', ' ')}, %"


def accuracy_figure(summary: RunSummary, points: Sequence[OperatingPoint]) -> Markup | None:
    """Dev score of every operating point and test score of every model against memory."""
    tested = [(name, model) for name, model in summary.named_models() if name == "trimmed"]
    levels = [
        (model.value, style, title)
        for model, style, title in (
            (summary.untrimmed, "c2", "untrimmed"),
            (summary.fine_tuned, "c3", "fine-tuned, full depth"),
        )
        if model is not None
    ]
    if not points:
        return None
    ends = [point.dev + s * point.dev_stderr for point in points for s in (-1, 1)]
    ends += [model.value + s * model.stderr for _, model in tested for s in (-1, 1)]
    metric = metric_title(summary.metric)
    chart = Chart(
        f"{metric} against the layer memory that is left",
        Axis.around("layer memory left, %", _percent(points), least=5),
        Axis.around(metric, [*ends, *(value for value, _, _ in levels)], least=5),
    )
    for i, (value, style, title) in enumerate(sorted(levels, reverse=True)):
        chart.level(value, style, f"{title}, test {value:.1f}", below=i > 0)
    dev = list(zip(_percent(points), (point.dev for point in points), strict=True))
    chart.line(dev, "c1")
    for place, point in zip(dev, points, strict=True):
        said = f"step {point.step}: dev {with_stderr(point.dev, point.dev_stderr)}"
        said += f" (n = {point.dev_n}), {place[0]:.1f} % of the layer memory"
        chart.mark(place, "circle c1", said)
    for _, model in tested:
        place = (100 * model.layer_memory_ratio, model.value)
        said = f"test {with_stderr(model.value, model.stderr)} (n = {model.n})"
        said += f", {place[0]:.1f} % of the layer memory"
        chart.mark(place, "diamond c4", said, model.stderr)
    entries = [("circle", "c1", "operating point, dev items")]
    if tested:
        which = "exported" if any(model.folder for _, model in tested) else "trimmed"
        entries.append(("diamond", "c4", f"{which} model, test items, ± standard error"))
    return chart.markup() + key(entries)


def loss_figure(curves: Curves, full_depth: Curves, points: Sequence[OperatingPoint]) -> Markup:
    """Training loss over the optimizer steps, with the drops."""
    trimmed, size = thinned(curves.loss)
    untrimmed, _ = thinned(full_depth.loss)
    chart = _over_steps("training loss", [*trimmed, *untrimmed], points)
    chart.line(untrimmed, "c3")
    chart.line(trimmed, "c1")
    entries = [("line", "c1", "trimmed" + (f", mean of {size} steps" if size > 1 else ""))]
    if untrimmed:
        entries.append(("line", "c3", "fine-tuned, full depth"))
    entries += _drops(chart, points)
    return chart.markup() + key(entries)


def dev_figure(curves: Curves, points: Sequence[OperatingPoint], metric: str) -> Markup:
    """Dev score over the optimizer steps, with the drops."""
    places = [(point.optimizer_steps, point.dev) for point in points]
    ends = [(p.optimizer_steps, p.dev + s * p.dev_stderr) for p in points for s in (-1, 1)]
    chart = _over_steps(f"dev {metric_title(metric)}", [*curves.dev, *ends], points)
    chart.line(curves.dev or places, "c1")
    for place, point in zip(places, points, strict=True):
        said = f"step {point.step}: {with_stderr(point.dev, point.dev_stderr)} (n = {point.dev_n})"
        chart.mark(place, "circle c1", said, point.dev_stderr)
    entries = [("line", "c1", "every epoch"), ("circle", "c1", "operating point, ± standard error")]
    entries += _drops(chart, points)
    return chart.markup() + key(entries)


def pattern_figure(points: Sequence[OperatingPoint], sublayers: Sequence[Sublayer]) -> Markup:
    """The dropping pattern: a row per sublayer, a column per step; scores in tooltips."""
    left, top = 62, 34
    width, height = left + CELL * len(points) + 4, top + CELL * len(sublayers) + 4
    drawing = svg("scores and dropped sublayers by step", width, height, "pattern")
    drawing.set("style", f"width: {width}px")
    text(drawing, (left, 12), "step")
    for column, point in enumerate(points):
        text(drawing, (left + CELL * (column + 0.5), 28), str(point.step), "middle", "tick")
    dropped = {name: i for i, point in enumerate(points) for name in point.dropped}
    scores = [lowest_scores(point) for point in points]
    ranks = [_shades(found) for found in scores]
    for row, sublayer in enumerate(sublayers):
        name, y = str(sublayer), top + CELL * row
        letter = sublayer.kind[0].upper()
        block = f"{sublayer.block} " if sublayer.kind == "attention" else ""
        text(drawing, (left - 6, y + 13), f"{block}{letter}", "end", "tick")
        end = dropped.get(name, len(points))
        for column in range(min(end + 1, len(points))):
            score = scores[column].get(name)
            said = f"step {points[column].step}, {name}: "
            said += "not scored" if score is None else f"score {score:.4g}"
            place = (left + CELL * column, y)
            if column < end:
                _cell(drawing, place, 1, f"shade{ranks[column].get(name, 0)}", said)
        if name in dropped:
            said = f"{name}: dropped in step {points[end].step}"
            if name in scores[end]:
                said += f" with score {scores[end][name]:.4g}"
            place = (left + CELL * end, y)
            _cell(drawing, place, len(points) - end, f"gone {sublayer.kind}", said)
            text(drawing, (place[0] + CELL / 2, y + 13), letter, "middle", "letter")
    return markup(drawing)


def _over_steps(title: str, values: Curve, points: Sequence[OperatingPoint]) -> Chart:
    steps = [step for step, _ in values] + [point.optimizer_steps for point in points]
    along = Axis("optimizer steps", 0, 1.03 * max([1, *steps]))
    return Chart(
        f"{title} over the optimizer steps",
        along,
        Axis.around(title, [value for _, value in values]),
    )


def _drops(chart: Chart, points: Sequence[OperatingPoint]) -> list[tuple[str, str, str]]:
    """Marks every drop on the horizontal axis; the entry of the key."""
    starts = [0, *(point.optimizer_steps for point in points)]  # each point's drop came before it
    drops = [(step, point.dropped) for step, point in zip(starts, points, strict=False)]
    drops = [(step, dropped) for step, dropped in drops if dropped]
    for step, dropped in drops:
        said = f"after optimizer step {step}: dropped {', '.join(dropped)}"
        chart.mark((step, chart.y.low), "triangle c4", said)
    return [("triangle", "c4", "sublayers dropped")] if drops else []


def _shades(scores: dict[str, float]) -> dict[str, int]:
    """A shade for each score by its rank, the darkest for the lowest."""
    order = sorted(set(scores.values()))
    rank = {score: SHADES - i * SHADES // len(order) for i, score in enumerate(order)}
    return {name: rank[score] for name, score in scores.items()}


def _cell(
    drawing: ElementTree.Element, at: tuple[float, float], columns: int, style: str, tooltip: str
) -> None:
    place = {"x": f"{at[0]:g}", "y": f"{at[1]:g}", "class": style}
    size = {"width": f"{CELL * columns - 2}", "height": f"{CELL - 2}"}
    cell = ElementTree.SubElement(drawing, "rect", place | size)
    ElementTree.SubElement(cell, "title").text = tooltip


def _percent(points: Sequence[OperatingPoint]) -> list[float]:
    return [100 * point.layer_memory_ratio for point in points]

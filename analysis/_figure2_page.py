"""Figure 2 on the page: one task at a time, any size on the horizontal axis."""

from collections.abc import Sequence
from html import escape  # Plotly reads some HTML in its texts

from analysis._labels import label_sides
from analysis.figures import Data
from analysis.names import task_title
from analysis.style import PAPER_COLOUR, PLOTLY_SYMBOLS, REFERENCE_COLOUR

# Title and factor of every size
SIZES = {
    "layer_memory_ratio": ("layer memory left, %", 100.0),
    "model_memory_ratio": ("whole model left, %", 100.0),
    "tokens_per_second": ("decoding speed, tokens/s", 1.0),
}
# The size of the frontier and of the published values
MAIN_SIZE = "layer_memory_ratio"


# Width and height of the axes that the labels are placed for, and their size, in pixels
AXES, FONT_SIZE = (900.0, 400.0), 9
# Colour and marker of every kind of model
FAMILIES = {
    "full depth": ("#000000", "o"),
    "TrimLLM": ("#0072B2", "^"),
    "other score or rule": ("#009E73", "v"),
    "other method": ("#D55E00", "s"),
    "other method, of a trimmed model": ("#A3407C", "D"),
}
PUBLISHED = "LLaMA-7B, published"


def interactive(data: Data) -> Data:
    """A Plotly figure with menus for task and size; a click on a point leads to its record.

    Args:
        data: The data of Figure 2.
    """
    traces: list[Data] = []
    owners: list[str] = []  # the task of each trace
    across: list[dict[str, list[float | None]]] = []  # its values by size
    for task in data["tasks"]:
        for trace, values in _traces(task):
            trace["visible"] = task is data["tasks"][0]
            traces.append(trace)
            owners.append(task["task"])
            across.append(values)
    tasks = [
        {
            "label": escape(task_title(task["task"])),
            "method": "update",
            "args": [{"visible": [owner == task["task"] for owner in owners]}],
        }
        for task in data["tasks"]
    ]
    sizes = [
        {
            "label": title,
            "method": "update",
            "args": [{"x": [values[name] for values in across]}, {"xaxis.title.text": title}],
        }
        for name, (title, _) in SIZES.items()
    ]
    menu = {"type": "dropdown", "showactive": True, "y": 1.16, "yanchor": "top", "xanchor": "left"}
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": SIZES[MAIN_SIZE][0]}},
            "yaxis": {"title": {"text": "accuracy, %"}},
            "hovermode": "closest",
            "updatemenus": [
                {**menu, "buttons": tasks, "x": 0},
                {**menu, "buttons": sizes, "x": 0.2},
            ],
        },
    }


def _traces(task: Data) -> list[tuple[Data, dict[str, list[float | None]]]]:
    """The traces of a task, each with its horizontal values by size.

    The frontier and the published values have no points for other sizes than the main one.
    """
    found = []
    sides = _sides(task)
    for family, (colour, marker) in FAMILIES.items():
        mine = [i for i, p in enumerate(task["points"]) if p["family"] == family]
        points = [task["points"][i] for i in mine]
        if points:
            across = {name: _values(points, name) for name in SIZES}
            trace = _points(family, points, colour, marker)
            found.append((trace | _names(points, [sides[i] for i in mine]), across))
    frontier = _frontier([task["points"][i] for i in task["frontier"]])
    for trace in (frontier, _published(task["paper"])):
        nothing = [None] * len(trace["x"])
        found.append((trace, dict.fromkeys(SIZES, nothing) | {MAIN_SIZE: trace["x"]}))
    return found


def _sides(task: Data) -> list[str | None]:
    """Where the name of every point stands; None without room. The frontier comes first."""
    points = task["points"]
    first = [*task["frontier"], *(i for i in range(len(points)) if i not in task["frontier"])]
    places = [(100 * points[i][MAIN_SIZE], points[i]["value"]) for i in first]
    names = [points[i]["method"] for i in first]
    sides = dict(zip(first, label_sides(places, names, AXES, FONT_SIZE), strict=True))
    return [sides[i] for i in range(len(points))]


def _names(points: Sequence[Data], sides: Sequence[str | None]) -> Data:
    """The fields of a trace that write names beside its points."""
    return {
        "mode": "markers+text",
        "text": [p["method"] if side else "" for p, side in zip(points, sides, strict=True)],
        "textposition": [side or "top center" for side in sides],
        "textfont": {"size": FONT_SIZE},
        "cliponaxis": False,
    }


def _values(points: Sequence[Data], name: str) -> list[float | None]:
    _, scale = SIZES[name]
    return [None if p[name] is None else scale * p[name] for p in points]


def _points(name: str, points: Sequence[Data], colour: str, marker: str) -> Data:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": _values(points, MAIN_SIZE),
        "y": [p["value"] for p in points],
        "error_y": {"type": "data", "array": [p["stderr"] or 0 for p in points], "thickness": 1},
        "customdata": [p["records"][0] for p in points],
        "hovertext": [_hover(p) for p in points],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"color": colour, "symbol": PLOTLY_SYMBOLS[marker], "size": 9},
    }


def _frontier(points: Sequence[Data]) -> Data:
    return _points("frontier", points, REFERENCE_COLOUR, "o") | {
        "mode": "lines",
        "line": {"color": REFERENCE_COLOUR, "width": 1},
        "hoverinfo": "skip",
        "error_y": {"visible": False},
    }


def _published(points: Sequence[Data]) -> Data:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": PUBLISHED,
        "x": [100 * p["ratio"] for p in points],
        "y": [p["value"] for p in points],
        "text": [p["method"] for p in points],
        "hovertemplate": "%{text}: %{y:.1f} % at %{x:.0f} %<extra>published</extra>",
        "marker": {"symbol": "square-open", "color": PAPER_COLOUR, "size": 8},
    }


def _hover(point: Data) -> str:
    lines = [
        f"<b>{escape(point['method'])}</b> ({escape(point['experiment'])})",
        f"accuracy {point['value']:.1f} ± {point['stderr'] or 0:.1f}, seeds {point['seeds']}",
        f"layer memory {100 * point['layer_memory_ratio']:.1f} %",
        f"whole model {100 * point['model_memory_ratio']:.1f} %",
    ]
    if point["tokens_per_second"] is not None:
        lines.append(f"{point['tokens_per_second']:.1f} tokens/s")
    return "<br>".join([*lines, *(["measured with a dirty tree"] if point["dirty"] else [])])

"""The common style of the figures."""

from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, distinct for colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PLOTLY_SYMBOLS: dict[str, str] = dict(
    zip(
        MARKERS,
        ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"),
        strict=True,
    )
)
PAPER_COLOUR = "#8C8C8C"
REFERENCE_COLOUR = "#444444"
DROPPED_COLOUR = "#E3E3E3"
SCORE_COLOURS = "viridis"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "pdf.fonttype": 42,
}


def panels(count: int, width: float = 3.6, height: float = 3.0, columns: int = 3) -> Any:
    """An empty figure with axes in rows.

    Args:
        count: Number of axes.
        width: Width of each, in inches.
        height: Height of each, in inches.
        columns: Most axes of a row.

    Returns:
        The figure and the list of its axes.
    """
    columns = min(columns, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[max(1, count) :]:
        unused.remove()
    return figure, list(axes[: max(1, count)])


def nothing_measured(axes: Any) -> None:
    """Writes "not measured yet" into axes without data."""
    axes.text(
        *(0.5, 0.5, "not measured yet"),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=PAPER_COLOUR,
        bbox={"facecolor": "white", "edgecolor": "none"},
    )


def look_of(names: list[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for every name; the pairs are distinct."""
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, name in enumerate(names)
    }


def shared_legend(figure: Any, columns: int = 3) -> None:
    """One legend below all panels, with every label once."""
    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        legend = figure.legend(found.values(), found, loc="outside lower center", ncols=columns)
        # the legend may be wider than a single panel
        needed = legend.get_window_extent().width / figure.dpi + 0.2
        figure.set_figwidth(max(figure.get_figwidth(), needed))

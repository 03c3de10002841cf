"""Labels beside the points of a chart, where they cover neither points nor one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from matplotlib.patheffects import withStroke

LINES = 14  # farthest place of a label, in its own heights above or below the point


@dataclass(frozen=True)
class Box:
    """A rectangle, in inches from the lower left corner of the axes."""

    left: float
    bottom: float
    right: float
    top: float

    def covers(self, other: "Box") -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def label_boxes(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    radius: float = 0.05,
) -> list[Box]:
    """Finds a place for the label of every point, as near as it is free.

    A label is to the right or left of its point, at its height or above or below it. Where
    nothing is free it covers something at the nearest place.

    Args:
        points: The points, in inches.
        sizes: Width and height of each label, in inches.
        area: What the labels have to stay in.
        radius: Half of the width of a point.
    """
    taken = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    places: list[Box] = []
    heights = sorted(range(-LINES, LINES + 1), key=abs)
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        tries = []
        for lines, (away, right) in product(heights, product((2.0, 6.0), (True, False))):
            left = x + away * radius if right else x - away * radius - width
            bottom = y + (lines - 0.5) * height
            tries.append(Box(left, bottom, left + width, bottom + height))
        inside = [
            box
            for box in tries
            if area.left <= box.left and box.right <= area.right
            if area.bottom <= box.bottom and box.top <= area.top
        ]
        free = [box for box in inside if not any(box.covers(other) for other in taken)]
        places.append((free or inside or tries)[0])
        taken.append(places[-1])
    return places


# Places of a label in Plotly's words, with the horizontal and vertical side that it is on
SIDES = {
    f"{vertical} {horizontal}": (x, y)
    for y, vertical in ((0, "middle"), (1, "top"), (-1, "bottom"))
    for x, horizontal in ((1, "right"), (-1, "left"), (0, "center"))
    if (x, y) != (0, 0)
}


def label_sides(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    size: tuple[float, float],
    font_size: float = 9,
) -> list[str | None]:
    """Finds the side of each point where its label covers nothing, for labels close to points.

    Args:
        points: The points, in units of the data.
        labels: The texts.
        size: Width and height of the axes, in points of type.
        font_size: In points of type.

    Returns:
        A key of `SIDES` for every label; None where all sides are taken.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    per_x = size[0] / (max(xs, default=1) - min(xs, default=0) or 1)
    per_y = size[1] / (max(ys, default=1) - min(ys, default=0) or 1)
    places = [(x * per_x, y * per_y) for x, y in points]
    radius = font_size / 2
    taken = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in places]
    found: list[str | None] = []
    for (x, y), text in zip(places, labels, strict=True):
        width, height = 0.56 * font_size * len(text), 1.2 * font_size
        for side, (right, up) in SIDES.items():
            left = x + right * (radius + width / 2) - width / 2
            bottom = y + up * (radius + height / 2) - height / 2
            box = Box(left, bottom, left + width, bottom + height)
            if not any(box.covers(other) for other in taken):
                taken.append(box)
                found.append(side)
                break
        else:
            found.append(None)
    return found


def label_points(
    axes: Any,
    points: Sequence[tuple[float, float]],
    labels: Sequence[tuple[str, str]],
    size: tuple[float, float],
    font_size: float = 6.5,
) -> None:
    """Writes labels beside points, with lines to those that are farther away.

    Args:
        axes: Matplotlib axes with their final limits.
        points: The points, in units of the data.
        labels: Text and colour of each label.
        size: Width and height of the axes, in inches.
        font_size: In points.
    """
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    per_x, per_y = size[0] / (x1 - x0), size[1] / (y1 - y0)
    places = [((x - x0) * per_x, (y - y0) * per_y) for x, y in points]
    em = font_size / 72
    sizes = [(0.56 * em * len(text), 1.25 * em) for text, _ in labels]
    boxes = label_boxes(places, sizes, Box(0, 0, *size))
    for (x, y), (text, colour), place, box in zip(points, labels, places, boxes, strict=True):
        right = box.left > place[0]
        near = box.left if right else box.right
        middle = (box.bottom + box.top) / 2
        moved = abs(middle - place[1]) > em / 2
        line = {"arrowstyle": "-", "lw": 0.4, "color": colour, "shrinkB": 2}
        axes.annotate(
            text,
            (x, y),
            (x0 + near / per_x, y0 + middle / per_y),
            ha="left" if right else "right",
            va="center",
            fontsize=font_size,
            color=colour,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops=line if moved else None,
            zorder=4,
        )

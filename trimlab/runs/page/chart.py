"""Charts as inline SVG: axes, lines, marks with tooltips.

Colours are classes of the page's style sheet, which knows light and dark. Series differ in their
dashes and marks, too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 44  # margins

# paths around (0, 0)
MARKS = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "diamond": "M0,-6L6,0L0,6L-6,0Z",
    "triangle": "M0,-5L5,4H-5Z",
}


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        title: Quantity and unit.
        low: Value at its start.
        high: Value at its end.
    """

    title: str
    low: float
    high: float

    @classmethod
    def around(cls, title: str, values: Iterable[float], least: float = 1e-9) -> "Axis":
        """An axis with room around some values.

        Args:
            title: Quantity and unit.
            values: The values; none gives the axis from 0 to 1.
            least: Shortest span.
        """
        found = list(values) or [0.0, 1.0]
        low, high = min(found), max(found)
        room = max(0.08 * (high - low), (least - (high - low)) / 2, 1e-9)
        return cls(title, low - room, high + room)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the axis."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [round((first + i) * step, 12) for i in range(count)]


class Chart:
    """A chart that is drawn mark by mark.

    Args:
        label: Description for people who hear the page.
        x: Horizontal axis.
        y: Vertical axis.
    """

    def __init__(self, label: str, x: Axis, y: Axis):
        self.x, self.y = x, y
        self.svg = svg(label, WIDTH, HEIGHT)
        for value in x.ticks():
            self._tick(value, self.at(value, y.low), "middle", (0, 17))
        for value in y.ticks():
            self._tick(value, self.at(x.low, value), "end", (-6, 4))
            _line(self.svg, (self.at(x.low, value), self.at(x.high, value)), "grid")
        _line(self.svg, (self.at(x.low, y.low), self.at(x.high, y.low)), "axis")
        middle = (LEFT + WIDTH - RIGHT) / 2
        text(self.svg, (middle, HEIGHT - 6), x.title, "middle")
        turned = text(self.svg, (0, 0), y.title, "middle")
        turned.set("transform", f"translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a value."""
        right = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y.low) / (self.y.high - self.y.low)
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + right * across, 1), round(TOP + (1 - up) * down, 1)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through points."""
        _line(self.svg, [self.at(*point) for point in points], f"line {style}")

    def level(self, value: float, style: str, title: str, below: bool = False) -> None:
        """A horizontal line with its title at the left."""
        x, y = self.at(self.x.low, value)
        _line(self.svg, ((x, y), self.at(self.x.high, value)), f"line {style}")
        text(self.svg, (x + 4, y + (13 if below else -5)), title, "start", f"name {style}")

    def mark(
        self, point: tuple[float, float], look: str, tooltip: str, stderr: float | None = None
    ) -> None:
        """A mark with a tooltip.

        Args:
            point: Its values.
            look: Name of its mark in `MARKS`, and its style.
            tooltip: Its values in words.
            stderr: Half of its error bar, in units of the vertical axis.
        """
        x, y = point
        group = ElementTree.SubElement(self.svg, "g", {"class": look.partition(" ")[2]})
        ElementTree.SubElement(group, "title").text = tooltip
        if stderr:
            _line(group, (self.at(x, y - stderr), self.at(x, y + stderr)), "line")
        left, top = self.at(x, y)
        shape = {"d": MARKS[look.partition(" ")[0]], "transform": f"translate({left} {top})"}
        ElementTree.SubElement(group, "path", shape)

    def markup(self) -> Markup:
        """The chart as part of a page."""
        return markup(self.svg)

    def _tick(
        self, value: float, place: tuple[float, float], anchor: str, shift: tuple[int, int]
    ) -> None:
        at = (place[0] + shift[0], place[1] + shift[1])
        text(self.svg, at, f"{value:.6g}", anchor, "tick")


def svg(label: str, width: float, height: float, style: str = "chart") -> ElementTree.Element:
    """An empty drawing that is as wide as its place on the page."""
    about = {"role": "img", "aria-label": label, "class": style}
    return ElementTree.Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", **about})


def text(
    parent: ElementTree.Element,
    at: tuple[float, float],
    words: str,
    anchor: str = "start",
    style: str = "name",
) -> ElementTree.Element:
    """Writes into a drawing."""
    place = {"x": f"{at[0]:g}", "y": f"{at[1]:g}", "text-anchor": anchor, "class": style}
    element = ElementTree.SubElement(parent, "text", place)
    element.text = words
    return element


def markup(drawing: ElementTree.Element) -> Markup:
    """A drawing as part of a page; ElementTree has escaped its texts."""
    return Markup(ElementTree.tostring(drawing, encoding="unicode"))


def key(entries: Iterable[tuple[str, str, str]]) -> Markup:
    """A key to a chart.

    Args:
        entries: Mark (of `MARKS`, or `line`), style and title of each series.
    """
    items = ElementTree.Element("ul", {"class": "key"})
    for mark, style, title in entries:
        item = ElementTree.SubElement(items, "li")
        about = {"viewBox": "-12 -7 24 14", "class": style, "aria-hidden": "true"}
        drawing = ElementTree.SubElement(item, "svg", about)
        if mark == "line":
            _line(drawing, ((-12, 0), (12, 0)), f"line {style}")
        else:
            ElementTree.SubElement(drawing, "path", {"d": MARKS[mark]})
        ElementTree.SubElement(item, "span").text = title
    return markup(items)


def _line(parent: ElementTree.Element, points: Sequence[tuple[float, float]], style: str) -> None:
    places = " ".join(f"{x:g},{y:g}" for x, y in points)
    ElementTree.SubElement(parent, "polyline", {"points": places, "class": style})

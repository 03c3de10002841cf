"""A figure as data, and its files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Drawing

from analysis.style import STYLE

Data = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """The data of a figure, and the functions that draw it.

    Attributes:
        title: Its title.
        caption: Description of the figure, with the source of the published numbers.
        data: All of its content as JSON; records by their anchors.
        draw: Draws it with matplotlib.
        interactive: Makes a Plotly figure (`data`, `layout`) for the page.
    """

    title: str
    caption: str
    data: Data
    draw: Callable[[Data], Drawing]
    interactive: Callable[[Data], Data] | None = None

    def save(self, stem: Path) -> None:
        """Writes `stem`.json, .png and .pdf."""
        stem.with_suffix(".json").write_text(json.dumps(self.data, indent=1) + "\n")
        with matplotlib.rc_context(STYLE):
            drawing = self.draw(self.data)
            drawing.savefig(stem.with_suffix(".png"), dpi=150)
            # without a date: equal records give equal files
            drawing.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})

"""A figure as data, and the files it becomes."""

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
    """What a figure shows, and how.

    Attributes:
        title: Its title.
        caption: What it shows and where the published numbers come from.
        data: Everything that is drawn, JSON only; records go by their anchors.
        draw: Draws it on paper.
        interactive: Gives a Plotly figure (`data`, `layout`) for the page.
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
            # no date in it: the same records give the same file
            drawing.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})

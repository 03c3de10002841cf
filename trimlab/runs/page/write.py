"""Writes `report.html` from what a run folder holds and from the run's data."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from trimlab.data.domain import DomainData
from trimlab.files import write_text
from trimlab.model.sublayers import SublayerStack
from trimlab.records.run_summary import RunSummary
from trimlab.runs.compare import FULL_DEPTH
from trimlab.runs.folder import RunFolder
from trimlab.runs.page import facts, figures
from trimlab.runs.page.curves import read_curves
from trimlab.runs.page.examples import examples

PAGE = "report.html"


class RunPage:
    """The page of a run: a view of it, which never stops it.

    Args:
        folder: The run folder.
        data: The domain, set up.
        stack: The model that is trimmed.
    """

    def __init__(self, folder: RunFolder, data: DomainData, stack: SublayerStack):
        self.folder, self.data, self.stack = folder, data, stack

    @property
    def path(self) -> Path:
        """The page."""
        return self.folder.path / PAGE

    def write(self, summary: RunSummary) -> None:
        """Writes the page of the run so far; what fails here becomes a warning."""
        try:
            write_text(self.path, self._html(summary))
        except Exception as error:
            warnings.warn(f"{self.path} was not written: {error!r}", stacklevel=2)

    def _html(self, summary: RunSummary) -> str:
        points = self.folder.points()
        curves = read_curves(self.folder.path, summary.metric)
        full_depth = read_curves(self.folder.path / FULL_DEPTH, summary.metric)
        config = yaml.safe_load(self.folder.config.read_text())
        data = self.data.report().to_row()
        page: dict[str, Any] = {
            "title": f"{Path(summary.context.base).name} on {summary.context.task}",
            "summary": summary,
            "metric": figures.metric_title(summary.metric),
            "headline": facts.headline(summary),
            "differences": facts.differences(summary),
            "table": facts.table(summary),
            "zeros": summary.has_zeros,
            "columns": [
                *("value", "n", "layers", "whole"),
                *(("stored_layers", "stored") if summary.has_zeros else ()),
                *("disk", "speed", "tier"),
            ],
            "accuracy": figures.accuracy_figure(summary, points),
            "loss": figures.loss_figure(curves, full_depth, points) if curves.loss else None,
            "dev": figures.dev_figure(curves, points, summary.metric) if points else None,
            "pattern": figures.pattern_figure(points, self.stack.original) if points else None,
            "examples": examples(summary, self.data),
            "data": data,
            "warnings": facts.warnings(summary, data),
            "about": facts.about(summary),
            "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        }
        return _template().render(page)


@cache
def _template() -> Template:
    """The template of the page, compiled once."""
    environment = Environment(
        loader=PackageLoader("trimlab.runs.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


class RefreshPage(L.Callback):
    """Writes the page at the end of every epoch, for people who watch a run.

    Args:
        page: The page.
        summary: The summary so far.
    """

    def __init__(self, page: RunPage, summary: RunSummary):
        self.page, self.summary = page, summary

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the page."""
        self.page.write(self.summary)

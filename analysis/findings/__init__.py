"""What the report must answer: one file per question, found by its name.

A file defines `PLACE` (its place among the questions), `QUESTION`, `METHOD` (what is compared, and
how) and

    def answer(series: Series, records: Records, everything: Records) -> Answer

`records` are those of one series; `everything` are the records of all, for benchmarks of speed,
which stand apart. Nothing is averaged over series: each has its own answer.
"""

from collections.abc import Iterator
from types import ModuleType

from analysis.commands import PROFILE
from analysis.findings._finding import Finding
from trimlab.plugins import plugin_module, plugin_names
from trimlab.records.results import Records, Series


def questions() -> Iterator[ModuleType]:
    """The questions, in their order."""
    modules = [plugin_module(__name__, name, "question") for name in plugin_names(__name__)]
    return iter(sorted(modules, key=lambda module: module.PLACE))


def find(records: Records) -> list[Finding]:
    """The answer of every series of full runs to every question.

    Args:
        records: All records.
    """
    series = {
        series: part
        for series, part in records.by_series().items()
        if series.limit is None and len(part.where(kind="test"))
    }
    if not any(one.profile == PROFILE for one in series):
        series[Series(PROFILE, "authors")] = Records()
    return [
        Finding(
            module.__name__.rpartition(".")[2],
            module.QUESTION,
            module.METHOD,
            {one: module.answer(one, part, records).corrected() for one, part in series.items()},
        )
        for module in questions()
    ]

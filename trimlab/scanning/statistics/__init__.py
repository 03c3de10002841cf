"""Statistics of a scan: one number for every candidate, from which scorers make their scores.

A statistic is one file in this folder that defines one subclass of `OutputStatistic` or of
`BypassStatistic`; the file's name is the statistic's name. A scorer names the statistics that it
needs, and `Scan.statistics` holds them by name.
"""

from trimlab.scanning.statistics._statistic import (
    STATISTICS,
    BypassedPasses,
    BypassStatistic,
    OutputStatistic,
    Statistic,
    load_statistic,
)

__all__ = [
    "STATISTICS",
    "BypassStatistic",
    "BypassedPasses",
    "OutputStatistic",
    "Statistic",
    "load_statistic",
]

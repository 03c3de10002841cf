"""Scans and drops of a run as tables: for Weights & Biases and for the run's page."""

from collections.abc import Sequence
from typing import Any

from trimlab.model.sublayers import Sublayer
from trimlab.records.operating_point import OperatingPoint

DROPPED = -1.0  # in the dropping pattern, as in Figure 3


def lowest_scores(point: OperatingPoint) -> dict[str, float]:
    """The lowest score of every sublayer among the candidates that it was in."""
    scores: dict[str, float] = {}
    for entry in point.scan:
        for name in entry.sublayers:
            scores[name] = min(entry.score[0], scores.get(name, entry.score[0]))
    return scores


def dropping_pattern(points: Sequence[OperatingPoint], sublayers: Sequence[Sublayer]) -> list[Any]:
    """Figure 3: a row per scan, a column per sublayer; its lowest score, -1 once it is dropped.

    Args:
        points: Operating points.
        sublayers: The sublayers of the model at the start.

    Returns:
        The number of the scan, then one score per sublayer; None where it was in no candidate.
    """
    rows = []
    for point in points:
        scores = lowest_scores(point)
        gone = set(point.history) - set(point.dropped)
        names = map(str, sublayers)
        rows.append([point.step, *(DROPPED if n in gone else scores.get(n) for n in names)])
    return rows


def score_table(points: Sequence[OperatingPoint]) -> list[Any]:
    """A row per scan and candidate, with its score and whether it was dropped.

    `items` is the number of calibration items behind the score, where a scan stopped candidates
    early: with fewer than others, the score is a lower bound and the accuracy an upper one.
    """
    return [
        [point.step, entry.candidate, entry.score[0]]
        + [entry.statistics.get(name) for name in ("accuracy", "norm", "items")]
        + [set(entry.sublayers) <= set(point.dropped)]
        for point in points
        for entry in point.scan
    ]

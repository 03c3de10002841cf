"""Which candidates go: those with the lowest scores."""

from collections.abc import Sequence

from trimlab.model.sublayers import Sublayer
from trimlab.scanning.candidates import Candidate

Scores = list[tuple[float, ...]]


def ranking(scores: Scores) -> list[int]:
    """Candidates from the first to drop to the last; equal scores in the order of execution."""
    return sorted(range(len(scores)), key=lambda index: scores[index])


def lowest(candidates: Sequence[Candidate], scores: Scores, k: int) -> list[int]:
    """The k candidates that are dropped first.

    One that shares a sublayer with a candidate before it is passed over.

    Args:
        candidates: The candidates of a scan.
        scores: Their scores.
        k: How many; fewer where there are no more.
    """
    chosen: list[int] = []
    gone: set[Sublayer] = set()
    for index in ranking(scores):
        if len(chosen) < k and not gone & set(candidates[index]):
            chosen.append(index)
            gone |= set(candidates[index])
    return chosen


def most_important(found: Sequence[Candidate], scores: Scores, r: float) -> list[Sublayer]:
    """The share r of the sublayers with the highest scores: they are trained (line 2)."""
    sublayers = [s for i in ranking(scores) for s in found[i]]
    return sublayers[-max(1, round(r * len(sublayers))) :]

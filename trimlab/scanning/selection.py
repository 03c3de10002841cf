"""Selection of candidates by their scores: the lowest are dropped."""

from collections.abc import Sequence

from trimlab.model.sublayers import Sublayer
from trimlab.scanning.candidates import Candidate

Scores = list[tuple[float, ...]]  # importance of each candidate; later numbers break ties


def ranking(scores: Scores) -> list[int]:
    """Candidates from the first to drop to the last; equal scores in the order of execution."""
    return sorted(range(len(scores)), key=lambda index: scores[index])


def lowest(candidates: Sequence[Candidate], scores: Scores, k: int) -> list[int]:
    """Indices of the k candidates with the lowest scores.

    A candidate that shares a sublayer with one chosen before it is passed over.

    Args:
        candidates: The candidates of a scan.
        scores: Their scores.
        k: Number of candidates; fewer are chosen where there are no more.
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

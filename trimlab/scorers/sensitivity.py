"""Sensitivity (TrimLLM, Eq. 3): the loss of accuracy without the candidate."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


def s_scan(a: float, d: float) -> float:
    """Eq. 3: `(100 - a) / ((1 + d^2) + (1 + d) a)`.

    Args:
        a: Accuracy with the candidate bypassed, in [0, 100].
        d: Small positive number that keeps the score finite.

    Returns:
        0 for a = 100 (no loss), about 100 for a = 0.
    """
    return (100 - a) / ((1 + d**2) + (1 + d) * a)


class Sensitivity(Scorer):
    """The lowest s_scan is dropped: the candidate whose loss costs the fewest right answers.

    Args:
        d: The small positive number of Eq. 3.
    """

    statistics = frozenset({"accuracy"})
    falls_with_accuracy = True

    def __init__(self, d: float = 0.01):
        if not d > 0:
            raise ValueError(f"d must be positive, not {d}")
        self.d = d

    def __call__(self, scan: Scan) -> Scores:
        return [(s_scan(a, self.d),) for a in scan.statistics["accuracy"]]

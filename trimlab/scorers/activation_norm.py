"""Activation norm (TrimLLM, Eq. 4): the size of the candidate's output."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


def s_norm(norms: list[float]) -> list[float]:
    """Eq. 4: `100 min_j norm_F(x_j) / norm_F(x_i)`.

    Args:
        norms: Frobenius norm of every candidate's output, averaged over items.

    Returns:
        In (0, 100]; the lowest score belongs to the largest norm. If all outputs are zero, all
        scores are 100.
    """
    smallest = min(norms, default=0.0)
    return [100 * smallest / norm if norm > 0 else 100.0 for norm in norms]


class ActivationNorm(Scorer):
    """The lowest s_norm is dropped: the candidate with the largest output."""

    statistics = frozenset({"norm"})

    def __call__(self, scan: Scan) -> Scores:
        return [(score,) for score in s_norm(scan.statistics["norm"])]

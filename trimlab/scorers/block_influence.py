"""Block influence (ShortGPT, Men et al. 2024, Eq. 1), here for any candidate.

One minus the cosine of the hidden state before and after the candidate: the candidate that turns
the residual stream least is dropped.
"""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class BlockInfluence(Scorer):
    """The lowest `1 - cos(before, after)` is dropped."""

    statistics = frozenset({"similarity"})

    def __call__(self, scan: Scan) -> Scores:
        return [(1 - cosine,) for cosine in scan.statistics["similarity"]]

"""Alternate dropping (Sajjad et al. 2023, "On the effect of dropping layers", Section 3)."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class Alternate(Scorer):
    """Every other whole block, from the top down, in one shot before training.

    The last block is dropped first, then every second one below it (even-alternate, in the
    paper's count from 1). Beyond the paper, the others follow from the top down, so that any ratio
    can be reached.
    """

    one_shot = True
    granularity = "block"

    def __call__(self, scan: Scan) -> Scores:
        return [
            (float((scan.n_blocks - 1 - block) % 2), float(-block))
            for block in (candidate[0].block for candidate in scan.candidates)
        ]

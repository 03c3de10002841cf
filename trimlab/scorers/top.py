"""Top-layer dropping (Sajjad et al. 2023, "On the effect of dropping layers", Section 3)."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class Top(Scorer):
    """Whole blocks in one shot before training, the nearest to the output first."""

    one_shot = True
    granularity = "block"

    def __call__(self, scan: Scan) -> Scores:
        return [(float(-candidate[0].block),) for candidate in scan.candidates]

"""Top-layer dropping (Sajjad et al. 2023, "On the effect of dropping layers", Section 3)."""

from trimlab.calibration import Scan
from trimlab.scorers import Scorer, Scores


class Top(Scorer):
    """Whole blocks, those nearest the output first, in one shot before training."""

    one_shot = True
    unit = "block"

    def __call__(self, scan: Scan) -> Scores:
        return [(float(-candidate[0].block),) for candidate in scan.candidates]

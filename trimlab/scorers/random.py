"""Random: the control that every other score has to beat."""

import random

from trimlab.calibration import Scan
from trimlab.scorers import Scorer, Scores


class Random(Scorer):
    """A uniform number per candidate, a new one in every scan.

    Args:
        seed: Together with the scan's number it decides every score.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def __call__(self, scan: Scan) -> Scores:
        generator = random.Random(f"{self.seed}/{scan.step}")
        return [(generator.random(),) for _ in scan.candidates]

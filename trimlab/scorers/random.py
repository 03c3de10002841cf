"""Random: the control that every other score has to beat."""

import random

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class Random(Scorer):
    """A uniform number per candidate, a new one in every scan.

    Args:
        seed: Together with the scan's number it decides every score; the run's own seed if not
            given, so that a control under three seeds is three controls.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, scan: Scan) -> Scores:
        seed = scan.seed if self.seed is None else self.seed
        generator = random.Random(f"{seed}/{scan.step}")
        return [(generator.random(),) for _ in scan.candidates]

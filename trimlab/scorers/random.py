"""Random scores: the control of all other scores."""

import random

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class Random(Scorer):
    """A uniform random number per candidate, another one in every scan.

    Args:
        seed: Determines the scores together with the step of the scan. By default the seed of
            the run, so that runs with three seeds are three controls.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, scan: Scan) -> Scores:
        seed = scan.seed if self.seed is None else self.seed
        generator = random.Random(f"{seed}/{scan.step}")
        return [(generator.random(),) for _ in scan.candidates]

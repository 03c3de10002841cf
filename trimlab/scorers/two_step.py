"""Two-step ("both" in the paper's Table 3): sensitivity, its ties broken by activation norm."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers.activation_norm import s_norm
from trimlab.scorers.sensitivity import Sensitivity


class TwoStep(Sensitivity):
    """The lowest s_scan is dropped; among equal ones, the lowest s_norm.

    Accuracy on few items takes few values, so ties are common.
    """

    statistics = frozenset({"accuracy", "norm"})

    def __call__(self, scan: Scan) -> Scores:
        norms = s_norm(scan.statistics["norm"])
        return [(s, n) for (s,), n in zip(super().__call__(scan), norms, strict=True)]

"""Two-step ("both" in the paper's Table 3): sensitivity, its ties broken by activation norm."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers.activation_norm import s_norm
from trimlab.scorers.sensitivity import Sensitivity


class TwoStep(Sensitivity):
    """The lowest s_scan is dropped; among equal ones, the lowest s_norm.

    Accuracy on few items takes few values, so ties are the rule.
    """

    measures = frozenset({"accuracy", "norm"})

    def __call__(self, scan: Scan) -> Scores:
        assert scan.norm is not None
        sensitivity = super().__call__(scan)
        return [(s, n) for (s,), n in zip(sensitivity, s_norm(scan.norm), strict=True)]

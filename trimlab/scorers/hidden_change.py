"""Change of the last hidden states: the candidate whose bypass moves them least is dropped."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class HiddenChange(Scorer):
    """The lowest relative squared distance of the last hidden states is dropped."""

    statistics = frozenset({"hidden_change"})

    def __call__(self, scan: Scan) -> Scores:
        return [(change,) for change in scan.statistics["hidden_change"]]

"""Loss of the right answers: the candidate whose bypass leaves the lowest is dropped."""

from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer


class AnswerLoss(Scorer):
    """The lowest mean negative log-likelihood of the right answers' tokens is dropped."""

    statistics = frozenset({"answer_loss"})

    def __call__(self, scan: Scan) -> Scores:
        return [(loss,) for loss in scan.statistics["answer_loss"]]

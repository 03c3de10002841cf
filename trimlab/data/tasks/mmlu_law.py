"""MMLU law: professional law, international law and jurisprudence (arXiv 2009.03300).

Source: `cais/mmlu` on the hub; locally `mmlu/<subject>/`. Splits: train, calibration and dev are
carved from the 194 validation rows; the 1763 test rows are the reported set. The paper's LexGLUE,
the same test rows after training on CaseHOLD, is task `lexglue`.
"""

from trimlab.data.tasks._mmlu import Subjects


class MMLULaw(Subjects):
    """Three subjects; most rows are of professional law."""

    subjects = ("professional_law", "international_law", "jurisprudence")

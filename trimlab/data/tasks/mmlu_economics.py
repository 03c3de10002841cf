"""MMLU economics: high-school macro- and microeconomics, econometrics (arXiv 2009.03300).

Source: `cais/mmlu` on the hub; locally `mmlu/<subject>/`. Splits: train, calibration and dev are
carved from the 81 validation rows, which are too few for the default numbers of calibration and dev
rows; the 742 test rows are the reported set. The paper's FinanceQA, the same test rows after
training on finance, is task `financeqa`.
"""

from trimlab.data.tasks._mmlu import Subjects


class MMLUEconomics(Subjects):
    """Three subjects."""

    subjects = ("high_school_macroeconomics", "high_school_microeconomics", "econometrics")

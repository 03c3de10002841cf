"""MMLU economics: high-school macro- and microeconomics, econometrics (arXiv 2009.03300).

Source: `cais/mmlu` on the hub; locally `mmlu/<subject>/`. Splits: train, calibration and dev are
carved from the 81 validation rows, so fewer calibration and dev rows than the default have to be
asked for; the 742 test rows are the reported set. The paper reports them as FinanceQA, after
training on finance: that is task `financeqa`.
"""

from trimlab.data.tasks._mmlu import Subjects


class MMLUEconomics(Subjects):
    """The rows of three subjects."""

    subjects = ("high_school_macroeconomics", "high_school_microeconomics", "econometrics")

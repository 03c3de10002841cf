"""Table 8: another family of models."""

from analysis.accuracy_table import accuracy_table, own_domain
from analysis.paper import Paper
from analysis.table4 import METHODS
from analysis.tables import Table
from trimlab.records.results import Records

MODELS = ("facebook/opt-1.3b", "facebook/opt-6.7b")
# One task each of common sense, medicine and law
TASKS = ("piqa", "medmcqa", "lexglue")


def build(records: Records, paper: Paper) -> Table:
    """OPT-1.3B and OPT-6.7B."""
    mine = records.of("table8")
    return accuracy_table(
        "Table 8: OPT",
        "Accuracy in percent with half of the layer memory left, on a benchmark of common sense, "
        "one of medicine and one of law. The published values are not known to us.",
        mine,
        METHODS,
        own_domain(mine, TASKS),
        bases=MODELS,
    )

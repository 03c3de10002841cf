"""Table 5: accuracy on a domain unrelated to that of the trimming."""

from analysis.accuracy_table import accuracy_table, other_domains
from analysis.paper import Paper
from analysis.table4 import METHODS
from analysis.tables import Table
from trimlab.records.results import Records

UNRELATED = tuple(
    (trained_on, other)
    for trained_on, swapped in (("sciq", "medmcqa"), ("medmcqa", "sciq"))
    for other in (swapped, "mmlu_law", "mmlu_economics", "piqa")
)


def build(records: Records, paper: Paper) -> Table:
    """Training on one domain, evaluation on an unrelated one."""
    mine = records.of("table5")
    return accuracy_table(
        "Table 5: unrelated domains",
        "Accuracy in percent of a model trained (and trimmed to half of the layer memory) on the "
        "first benchmark, on the second. The published values are not known to us.",
        mine,
        METHODS,
        other_domains(mine, UNRELATED),
    )

"""Table 4: accuracy on a domain similar to that of the trimming."""

from analysis.accuracy_table import Method, accuracy_table, other_domains
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

SIMILAR = (("medmcqa", "pubmedqa"), ("lexglue", "legalbench"))

METHODS = (
    Method("w/o fine-tuning", "untrimmed"),
    Method("Full-FT", "fine_tuned", r=1),
    Method("Sparse-FT", "fine_tuned", r=0.25),
    Method("TrimLLM", "trimmed", "two_step", 0.25),
)


def build(records: Records, paper: Paper) -> Table:
    """Training on one domain, evaluation on a similar one."""
    mine = records.of("table4")
    return accuracy_table(
        "Table 4: similar domains",
        "Accuracy in percent of a model trained (and trimmed to half of the layer memory) on the "
        "first benchmark, on the second. The published values are not known to us.",
        mine,
        METHODS,
        other_domains(mine, SIMILAR),
    )

"""Table 8: another family of models."""

from analysis.accuracy_table import Method, accuracy_table, own_domain
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

MODELS = ("facebook/opt-1.3b", "facebook/opt-6.7b")
# One task each of common sense, medicine and law
TASKS = ("piqa", "medmcqa", "lexglue")


def build(records: Records, paper: Paper) -> Table:
    """OPT-1.3B and OPT-6.7B."""
    mine = records.of("table8")
    methods = (
        Method("w/o fine-tuning", "untrimmed"),
        Method("Full-FT", "fine_tuned", r=1),
        Method("Sparse-FT", "fine_tuned", r=0.25),
        Method("TrimLLM", "trimmed", "two_step", 0.25),
    )
    return accuracy_table(
        "Table 8: OPT",
        "Accuracy in percent with half of the layer memory left, on a benchmark of common sense, "
        "one of medicine and one of law. The published values are not known to us.",
        mine,
        methods,
        own_domain(mine, TASKS),
        bases=MODELS,
    )

"""Table 8: other architectures."""

from analysis.accuracy_table import accuracy_table, own_domain
from analysis.paper import Paper
from analysis.table4 import METHODS
from analysis.tables import Table
from trimlab.records.results import Records

# The profile whose model stands in where OPT's weights can't be had
PROFILE = "gemma-270m"
MODELS = ("facebook/opt-1.3b", "facebook/opt-6.7b")
# One task each of common sense, medicine and law
TASKS = ("piqa", "medmcqa", "lexglue")


def build(records: Records, paper: Paper) -> Table:
    """OPT-1.3B and OPT-6.7B, and what stands in for them under its own name."""
    mine = records.of("table8")
    return accuracy_table(
        "Table 8: other architectures",
        "Accuracy in percent with half of the layer memory left. The paper's model is OPT, on a "
        "benchmark of common sense, one of medicine and one of law; its values are not known to "
        "us. `trimlab sweep experiments/table8.yaml --profile paper` measures OPT; other models "
        "stand in for it under their own names.",
        mine,
        METHODS,
        own_domain(mine, TASKS),
        bases=MODELS,
    )

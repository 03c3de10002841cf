"""Table 7: trimming combined with quantisation and pruning."""

from analysis.accuracy_table import Method, accuracy_table, baselines, own_domain
from analysis.paper import Paper
from analysis.table2 import R
from analysis.tables import Table
from trimlab.records.results import Records

# Baselines with a row even without records
EXPECTED = ("sparsegpt", "llm_int8", "awq", "gptq")


def build(records: Records, _paper: Paper) -> Table:
    """TrimLLM alone and with each baseline that compressed its model."""
    mine = records.of("table7")
    trimmed = ("trimmed", "two_step", R)
    methods = [
        Method("w/o training", "untrimmed"),
        Method("TrimLLM (50%)", *trimmed),
        *(
            Method(f"TrimLLM (50%) + {title}", *trimmed, baseline=name)
            for name, title, _ in baselines(mine, ("trimmed",), EXPECTED)
        ),
    ]
    return accuracy_table(
        "Table 7: TrimLLM with quantisation and sparsity",
        "Accuracy in percent of models trimmed to half of the layer memory and then compressed. "
        "The published values are not available to us; the paper's text claims models up to 8 "
        "times smaller. Memory is of weights of 16 bits and counts what is stored.",
        mine,
        methods,
        own_domain(mine, ["sciq", "icd10cm"]),
    )

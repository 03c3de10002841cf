"""Table 2: TrimLLM against quantisation and pruning."""

from analysis.accuracy_table import Method, accuracy_table, own_domain, published_tasks
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

R = 0.25
PUBLISHED = "LLaMA-7B"
# as the paper calls them, in its order; those without a published row are peers of our own
PRUNED_BEFORE = {"llm_pruner": "LLM-Pruner", "llm_streamline": "LLM-Streamline"}
COMPRESSED_AFTER = {
    "sparsegpt": "SparseGPT (2:4)",
    "llm_int8": "LLM.int8()",
    "awq": "AWQ-int4",
    "gptq": "GPTQ-int4",
}


def build(records: Records, paper: Paper) -> Table:
    """Every method on every benchmark, with what it leaves of the model."""

    def published(method: str) -> dict[str, str]:
        return paper.row("table2", model=PUBLISHED, method=method)

    methods = [
        Method("w/o training", "untrimmed", paper=published("w/o training")),
        Method("Full-FT", "fine_tuned", r=1, paper=published("Full-FT")),
        Method("Sparse-FT", "fine_tuned", r=R, paper=published("Sparse-FT")),
        *(
            Method(title, "untrimmed", r=1, paper=published(title), baseline=name)
            for name, title in PRUNED_BEFORE.items()
        ),
        *(
            Method(title, "fine_tuned", r=1, paper=published(title), baseline=name)
            for name, title in COMPRESSED_AFTER.items()
        ),
        *(
            Method(f"TrimLLM ({percent}%)", "trimmed", "two_step", R, row, ratio=percent / 100)
            for percent in (50, 40, 30)
            for row in [published(f"TrimLLM ({percent}%)")]
        ),
    ]
    mine = records.of("table2")
    return accuracy_table(
        "Table 2: TrimLLM and its baselines",
        f"Accuracy in percent; the published values are {PUBLISHED}'s. Weights are compressed "
        "after full fine-tuning; LLM-Pruner and LLM-Streamline remove structure first, and what is "
        "left is trained in full for as many epochs. Memory is of weights of 16 bits and counts "
        "what is stored: zeros of SparseGPT are stored like other weights. (TrimLLM's is that of "
        "the sublayers that are left.) Methods calibrate on 128 training texts of the domain.",
        mine,
        methods,
        own_domain(mine, published_tasks(paper.rows("table2"))),
    )

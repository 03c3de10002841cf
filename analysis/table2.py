"""Table 2: TrimLLM against quantisation and pruning."""

from dataclasses import replace

from analysis.accuracy_table import (
    Method,
    accuracy_table,
    baselines,
    own_domain,
    published_tasks,
)
from analysis.names import BASELINES
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

R = 0.25
PUBLISHED = "LLaMA-7B"
# The published model of the second half, and the model that can be measured beside it
LARGER, LARGER_BASE = "LLaMA-13B", "huggyllama/llama-13b"


def build(records: Records, paper: Paper) -> Table:
    """Every method on every task, with the memory of its model."""
    mine = records.of("table2")
    smaller = Records(tuple(record for record in mine if record["base"] != LARGER_BASE))
    larger = mine.where(base=LARGER_BASE)
    pairs = own_domain(mine, published_tasks(paper.rows("table2")))
    table = accuracy_table(
        "Table 2: TrimLLM and its baselines",
        f"Accuracy in percent; the published values are {PUBLISHED}'s, and {LARGER}'s beside that "
        "model. Weights are compressed "
        "after full fine-tuning; LLM-Pruner and LLM-Streamline remove structure first, and what is "
        "left is trained in full for as many epochs. Memory is of weights of 16 bits and counts "
        "what is stored: zeros of SparseGPT like other weights, and for BiLLM also groups and "
        "scales, 2.5 bits a weight (its paper counts signs, about 1.1). (TrimLLM's is that of the "
        "sublayers that are left.) Methods calibrate on 128 training texts of the domain.",
        smaller,
        _methods(smaller, paper, PUBLISHED),
        pairs,
    )
    if len(smaller) and not len(larger):
        return table
    second = accuracy_table(
        "", "", larger, _methods(larger, paper, LARGER), pairs, bases=[LARGER_BASE]
    )
    return replace(table, groups=[*table.groups, *second.groups]).corrected()


def _methods(mine: Records, paper: Paper, model: str) -> list[Method]:
    """The rows beside those of a published model."""

    def published(method: str) -> dict[str, str]:
        return paper.row("table2", model=model, method=method)

    return [
        Method("w/o training", "untrimmed", paper=published("w/o training")),
        Method("Full-FT", "fine_tuned", r=1, paper=published("Full-FT")),
        Method("Sparse-FT", "fine_tuned", r=R, paper=published("Sparse-FT")),
        *(
            Method(title, model, r=1, paper=published(title), baseline=name)
            for name, title, model in baselines(mine, ("untrimmed", "fine_tuned"), BASELINES)
        ),
        *(
            Method(f"TrimLLM ({percent}%)", "trimmed", "two_step", R, row, ratio=percent / 100)
            for percent in (50, 40, 30)
            for row in [published(f"TrimLLM ({percent}%)")]
        ),
    ]

"""Table 6: sparse update ratios, by importance score."""

from analysis.accuracy_table import Method, accuracy_table, own_domain, published_tasks
from analysis.names import ratio_title
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

RATIOS = (1, 0.5, 0.25, 0.125)
SCORERS = {
    "calibration": "sensitivity",
    "activation-norm": "activation_norm",
    "both": "two_step",
}


def build(records: Records, paper: Paper) -> Table:
    """Every sparse update ratio with every importance score."""
    methods = [
        Method(
            f"r = {ratio_title(r)}, {title}",
            "trimmed",
            scorer,
            r,
            paper.row("table6", r=ratio_title(r), scorer=title),
        )
        for r in RATIOS
        for title, scorer in SCORERS.items()
    ]
    mine = records.of("table6")
    return accuracy_table(
        "Table 6: sparse update ratios",
        "Accuracy in percent with half of the layer memory left; the published values are "
        "LLaMA-7B's. Held to: how far the layer memory goes down while accuracy stays above 90 % "
        "of the fine-tuned model's, for the worst of the benchmarks (measured on dev items).",
        mine,
        methods,
        own_domain(mine, published_tasks(paper.rows("table6"))),
        held_to=True,
    )

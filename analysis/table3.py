"""Table 3: algorithms for the choice of the drops."""

from analysis.accuracy_table import Method, accuracy_table, own_domain, published_tasks
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

R = 0.25


def build(records: Records, paper: Paper) -> Table:
    """Target-selection algorithms and rules at r = 1/4."""

    def published(method: str) -> dict[str, str]:
        return paper.row("table3", method=method)

    methods = [
        Method("w/o fine-tuning", "untrimmed", paper=published("w/o fine-tuning")),
        Method("Full-FT", "fine_tuned", r=1, paper=published("Full-FT")),
        Method("Sparse-FT", "fine_tuned", r=R, paper=published("Sparse-FT")),
        *(
            Method(f"TrimLLM {title}", "trimmed", scorer, R, published(f"TrimLLM r=1/4 {title}"))
            for title, scorer in (
                ("calibration", "sensitivity"),
                ("activation-norm", "activation_norm"),
                ("both", "two_step"),
            )
        ),
        *(
            Method(f"{rule} 50 %", "trimmed", rule, R, published(f"{rule} 50% layers"))
            for rule in ("random", "top", "bottom", "alternate")
        ),
    ]
    return accuracy_table(
        "Table 3: target-selection algorithms",
        "Accuracy in percent at r = 1/4 with half of the layer memory left; the published values "
        "are LLaMA-7B's. Held to: how far the layer memory goes down while accuracy stays above "
        "90 % of the fine-tuned model's, for the worst of the benchmarks (measured on dev items).",
        records.of("table3"),
        methods,
        own_domain(records.of("table3"), published_tasks(paper.rows("table3"))),
        held_to=True,
    )

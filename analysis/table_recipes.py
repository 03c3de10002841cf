"""Recipes: what else keeps accuracy, beside the published algorithm, for as many epochs."""

from analysis.accuracy_table import Method, accuracy_table, own_domain
from analysis.paper import Paper
from analysis.tables import Table
from trimlab.records.results import Records

RATIOS = (0.6, 0.5, 0.4)
# Rows: title, importance score, sparse update ratio and training loss of the runs
RECIPES = (
    ("published algorithm", "two_step", 0.25, "answers"),
    ("fine-tuned first", "hidden_change", 0.5, "answers"),
    ("fine-tuned first, block influence", "block_influence", 0.5, "answers"),
    ("fine-tuned first, answer loss", "answer_loss", 0.5, "answers"),
    ("fine-tuned first, trained by logits", "hidden_change", 0.5, "logits"),
    ("fine-tuned first, trained by choices", "hidden_change", 0.5, "choices"),
    ("fine-tuned first, trained by context", "hidden_change", 0.5, "context"),
)


def build(records: Records, _paper: Paper) -> Table:
    """Every recipe at every ratio, beside the untrimmed and the fine-tuned model."""
    mine = records.of("recipes")
    methods = [
        Method("w/o fine-tuning", "untrimmed"),
        Method("full depth", "fine_tuned", "hidden_change", 0.5, loss="answers"),
        *(
            Method(f"{title} ({100 * ratio:g} %)", "trimmed", scorer, r, ratio=ratio, loss=loss)
            for title, scorer, r, loss in RECIPES
            for ratio in RATIOS
        ),
        # in one shot, thus at one ratio
        Method("fine-tuned first, last blocks (50 %)", "trimmed", "top", 0.5, ratio=0.5),
    ]
    return accuracy_table(
        "Recipes: selection and healing beyond the paper",
        "Accuracy in percent at three shares of the layer memory. Fine-tuned first: dropped from "
        "the model fine-tuned at full depth, half of the sublayers trained, a long last heal. The "
        "published algorithm is trained for as many epochs. Selections of the peers have the same "
        "healing: block influence (ShortGPT, LLM-Drop), loss of answers (SLEB, BlockPruner). All "
        "are trained by the answers, but for those by the logits of the model fine-tuned at full "
        "depth, too, by the right choice against the others, or by answers and context.",
        mine,
        methods,
        own_domain(mine, ["sciq", "piqa", "medmcqa", "lexglue", "icd10cm", "icd10_chapters"]),
    )

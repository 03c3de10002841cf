"""Does the recipe change an answer?"""

from analysis.commands import sweep
from analysis.findings._finding import Answer
from analysis.findings._selection import compare, incomplete, titles, trimmed
from analysis.names import task_order, task_title
from trimlab.records.results import Records, Series

PLACE = 7
QUESTION = "Does the recipe change any answer?"
METHOD = (
    "Test accuracy at half of the layer memory, ordinary blocks (Recipes): fine-tuned first less "
    "the published algorithm for as many epochs, hidden change less other selections with the same "
    "healing, and other training losses less that of the answers. The answers above with the "
    "recipe are a series of their own, of sweeps with `--set recipe=fine_tuned_first`."
)
TASKS = ("sciq", "piqa", "medmcqa", "lexglue", "icd10cm", "icd10_chapters")
R = 0.5
LOSSES = ("logits", "choices", "context")
PUBLISHED = ("the published algorithm", "two_step", 0.25)
SELECTIONS = (
    ("block influence", "block_influence", R),
    ("answer loss", "answer_loss", R),
    ("the last blocks", "top", R),
)


def answer(series: Series, records: Records, _everything: Records) -> Answer:
    """Seven comparisons per task."""
    mine = records.of("recipes")
    found, missing = [], set()
    for task in sorted({*TASKS, *(record["task"] for record in mine)}, key=task_order):
        of_task = mine.where(task=task)
        ours = trimmed(of_task, "hidden_change", R, loss="answers")
        comparisons = [
            compare(
                f"{task_title(task)}: fine-tuned first less {title}",
                ours,
                trimmed(of_task, scorer, r),
            )
            for title, scorer, r in (PUBLISHED, *SELECTIONS)
        ]
        comparisons += [
            compare(
                f"{task_title(task)}: fine-tuned first, loss {loss} less loss answers",
                trimmed(of_task, "hidden_change", R, loss=loss),
                ours,
            )
            for loss in LOSSES
        ]
        found += filter(None, comparisons)
        missing |= {task} if any(map(incomplete, comparisons)) else set()
    measures = sweep("recipes", series, tasks=sorted(missing))
    return Answer(found, titles(missing), measures if missing else None)

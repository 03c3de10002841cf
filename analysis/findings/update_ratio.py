"""Does r = 1/4 beat other sparse update ratios?"""

from analysis.commands import sweep
from analysis.findings._finding import Answer
from analysis.findings._selection import compare, incomplete, tasks_of, titles, trimmed
from analysis.names import ratio_title, task_title
from trimlab.records.results import Records, Series

PLACE = 2
QUESTION = "Does r = 1/4 beat r = 1, 1/2 and 1/8?"
METHOD = (
    "Test accuracy at half of the layer memory, two-step (Table 6): r = 1/4 less each other r. At "
    "r = 1 the embeddings are trained, too."
)
R = 0.25
OTHERS = (1, 0.5, 0.125)


def answer(series: Series, records: Records, _everything: Records) -> Answer:
    """Three comparisons per task."""
    found, missing = [], set()
    for task in tasks_of(records.of("table6")):
        mine = records.where(task=task).of("table6", "gpu_sciq")
        for r in OTHERS:
            what = f"{task_title(task)}: r = {ratio_title(R)} less r = {ratio_title(r)}"
            comparison = compare(what, trimmed(mine, r=R), trimmed(mine, r=r))
            found += [comparison] if comparison else []
            missing |= {task} if incomplete(comparison) else set()
    measures = sweep("table6", series, tasks=sorted(missing), scorers=["two_step"])
    return Answer(found, titles(missing), measures if missing else None)

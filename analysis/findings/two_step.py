"""Is the two-step score better than either score alone?"""

from analysis.commands import sweep
from analysis.findings._finding import Answer
from analysis.findings._selection import compare, incomplete, tasks_of, titles, trimmed
from analysis.names import task_title
from trimlab.records.results import Records, Series

PLACE = 1
QUESTION = "Is two-step better than either score alone?"
METHOD = (
    "Test accuracy at half of the layer memory and r = 1/4 (Table 3): two-step less calibration, "
    "and less activation norm."
)
ALONE = {"calibration": "sensitivity", "activation norm": "activation_norm"}


def answer(series: Series, records: Records, _everything: Records) -> Answer:
    """Two comparisons per task."""
    found, missing = [], set()
    for task in tasks_of(records.of("table3")):
        mine = records.where(task=task).of("table3", "table6", "gpu_sciq")
        for title, scorer in ALONE.items():
            what = f"{task_title(task)}: two-step less {title}"
            comparison = compare(what, trimmed(mine), trimmed(mine, scorer))
            found += [comparison] if comparison else []
            missing |= {task} if incomplete(comparison) else set()
    scorers = ("two_step", *ALONE.values())
    measures = sweep("table3", series, tasks=sorted(missing), scorers=scorers)
    return Answer(found, titles(missing), measures if missing else None)

"""Are MLPs dropped more than attentions?"""

from statistics import fmean

from analysis.commands import SEEDS, TASKS, sweep
from analysis.findings._drops import KINDS, Drops, drops_of
from analysis.findings._finding import Answer, Comparison
from analysis.findings._selection import common_sign, titles
from analysis.measurements import sign_test
from analysis.names import task_order, task_title
from trimlab.records.results import Records, Series

PLACE = 3
QUESTION = "Are MLPs dropped more than attentions with the residual bypass?"
METHOD = (
    "Drops at half of the layer memory, two-step, r = 1/4 (Table 3, Figure 3). Paired by block: "
    "in how many blocks is the MLP dropped in more seeds than the attention, and in how many in "
    "fewer? Exact sign test over the blocks. The paper reports far more MLPs."
)


def answer(series: Series, records: Records, _everything: Records) -> Answer:
    """One comparison per task."""
    drops = drops_of(records)
    runs = {task: [d for d in drops if d.task == task] for task in {d.task for d in drops}}
    found = [_comparison(task, runs[task]) for task in sorted(runs, key=task_order)]
    missing = [task for task in TASKS if len(runs.get(task, ())) < SEEDS]
    measures = sweep("table3", series, tasks=missing, scorers=["two_step"])
    return Answer(found, titles(missing), measures if missing else None)


def _comparison(task: str, runs: list[Drops]) -> Comparison:
    by_block = [
        sum(((block, "mlp") in run.dropped) - ((block, "attention") in run.dropped) for run in runs)
        for block in range(runs[0].blocks)
    ]
    won, lost = sum(b > 0 for b in by_block), sum(b < 0 for b in by_block)
    attentions, mlps = (fmean(run.count(kind) for run in runs) for kind in KINDS)
    return Comparison(
        what=task_title(task),
        number=f"{mlps:.3g} MLPs, {attentions:.3g} attentions",
        n=f"{len(by_block)} blocks",
        seeds=tuple(run.seed for run in runs),
        test=f"sign test, {won} : {lost}",
        p=sign_test(won, lost),
        sign=common_sign([run.count("mlp") - run.count("attention") for run in runs]),
        records=tuple(run.record for run in runs),
    )

"""Does trimming in one domain keep a similar one, and lose an unrelated one?"""

from collections.abc import Sequence

from analysis.commands import sweep
from analysis.findings._finding import NOT_MEASURED, ONE_SEED, Answer, Comparison
from analysis.findings._selection import compare, incomplete
from analysis.measurements import scorer_of, update_ratio_of
from analysis.names import task_title
from analysis.table4 import SIMILAR
from analysis.table5 import UNRELATED
from trimlab.records.results import Record, Records, Series

PLACE = 5
QUESTION = "Does trimming in one domain keep a similar one and lose an unrelated one?"
METHOD = (
    "Test accuracy on another domain (Tables 4 and 5): trimmed to half of the layer memory at r = "
    "1/4, less full fine-tuning of the same domain (r = 1; without it, fine-tuning at r = 1/4) "
    "with the same seed. `yes`: lost."
)
KINDS = {"similar": ("table4", SIMILAR), "unrelated": ("table5", UNRELATED)}


def answer(series: Series, records: Records, _everything: Records) -> Answer:
    """One comparison per pair of domains."""
    found, missing = [], {}
    for kind, (experiment, pairs) in KINDS.items():
        for task, other in pairs:
            mine = records.of(experiment).where(kind="test", task=task, evaluated_on=other)
            what = f"{kind}: {task_title(task)} → {task_title(other)}"
            comparison = compare(what, _trimmed(mine), _full_depth(mine), worse=True)
            found += [comparison] if comparison else []
            if incomplete(comparison):
                missing.setdefault(experiment, []).append(what)
    return Answer(
        found,
        [what for whats in missing.values() for what in whats],
        " && ".join(sweep(experiment, series) for experiment in missing) or None,
        _summary,
    )


def _trimmed(records: Records) -> list[Record]:
    tests = records.where(model="trimmed", asked_ratio=0.5)
    return [r for r in tests if (scorer_of(r), update_ratio_of(r)) == ("two_step", 0.25)]


def _full_depth(records: Records) -> list[Record]:
    """Full fine-tuning if there is any, otherwise sparse fine-tuning."""
    tests = [*records.where(model="fine_tuned")]
    return [r for r in tests if update_ratio_of(r) == 1] or tests


def _summary(comparisons: Sequence[Comparison]) -> str:
    parts = []
    for kind in KINDS:
        mine = [c for c in comparisons if c.what.startswith(kind)]
        counted = [c for c in mine if c.counts]
        lost = sum(c.verdict == "yes" for c in counted)
        said = f"lost in {lost} of {len(counted)}"
        if not counted:
            said = ONE_SEED if mine else NOT_MEASURED
        parts.append(f"{kind}: {said}")
    return "; ".join(parts) if comparisons else NOT_MEASURED

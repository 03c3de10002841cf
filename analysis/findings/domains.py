"""Do drops differ by domain more than by seed?"""

import random
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from analysis.commands import SEEDS, TASKS, sweep
from analysis.findings._drops import KINDS, Drops, drops_of
from analysis.findings._finding import Answer, Comparison
from analysis.findings._selection import signed, titles
from trimlab.records.results import Records, Series

PLACE = 4
QUESTION = "Do drops differ by domain more than by seed?"
METHOD = (
    "Overlap of two runs' drops at half of the layer memory (two-step, r = 1/4): sublayers "
    "dropped by both, in percent of the smaller set. By chance: the mean for random sets with as "
    "many MLPs and as many attentions. The difference is that of pairs of runs with different "
    "seeds, of the same domain less of two domains; its test permutes the domains among the runs "
    "of each seed."
)
PERMUTATIONS = 1999
Pair = tuple[Drops, Drops]


def answer(series: Series, records: Records, _everything: Records) -> Answer:
    """The overlap within domains, between domains, and the difference."""
    runs = drops_of(records)
    have = {task: sum(run.task == task for run in runs) for task in TASKS}
    missing = [task for task in TASKS if have[task] < SEEDS]
    within = [pair for pair in combinations(runs, 2) if pair[0].task == pair[1].task]
    between = [pair for pair in combinations(runs, 2) if pair[0].task != pair[1].task]
    found = [
        _described(what, pairs)
        for what, pairs in (
            ("same domain, other seed", within),
            ("another domain", between),
        )
        if pairs
    ]
    apart = [pair for pair in between if pair[0].seed != pair[1].seed]
    if within and apart:
        found.append(_difference(runs, within, apart))
    measures = sweep("table3", series, tasks=missing, scorers=["two_step"])
    return Answer(found, titles(missing), measures if missing else None, _summary)


def _summary(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "not measured"
    tested = [c for c in comparisons if c.p is not None]
    if not tested:
        return "no finding: one seed, or one domain"
    return {"yes": "yes", "the opposite": "no: the opposite"}.get(tested[0].verdict, "not shown")


def overlap(one: Drops, other: Drops) -> float:
    """Common drops in percent of the smaller set."""
    smaller = min(len(one.dropped), len(other.dropped))
    return 100 * len(one.dropped & other.dropped) / smaller


def by_chance(one: Drops, other: Drops) -> float:
    """The mean overlap of random sets with as many drops of each kind."""
    common = sum(one.count(kind) * other.count(kind) / one.blocks for kind in KINDS)
    return 100 * common / min(len(one.dropped), len(other.dropped))


def _described(what: str, pairs: Sequence[Pair]) -> Comparison:
    mean, chance = fmean(overlap(*p) for p in pairs), fmean(by_chance(*p) for p in pairs)
    return Comparison(
        what=what,
        number=f"{mean:.0f} % overlap, {chance:.0f} % by chance",
        n=f"pairs of runs: {len(pairs)}",
        seeds=_seeds(pairs),
        test=None,
        p=None,
        sign=0,
        records=_records(pairs),
    )


def _difference(runs: list[Drops], within: Sequence[Pair], apart: Sequence[Pair]) -> Comparison:
    labels = [run.task for run in runs]
    overlaps = {
        (i, j): overlap(runs[i], runs[j])
        for i, j in combinations(range(len(runs)), 2)
        if runs[i].seed != runs[j].seed
    }

    def difference(tasks: Sequence[str]) -> float:
        same = [value for (i, j), value in overlaps.items() if tasks[i] == tasks[j]]
        other = [value for (i, j), value in overlaps.items() if tasks[i] != tasks[j]]
        return fmean(same) - fmean(other) if same and other else 0.0

    observed = difference(labels)
    draw = random.Random(0)
    of_seed = [[i for i, run in enumerate(runs) if run.seed == s] for s in {r.seed for r in runs}]
    at_least = 0
    for _ in range(PERMUTATIONS):
        tasks = list(labels)
        for places in of_seed:
            mixed = draw.sample(places, len(places))
            for place, source in zip(places, mixed, strict=True):
                tasks[place] = labels[source]
        at_least += difference(tasks) >= observed - 1e-9
    pairs = [*within, *apart]
    return Comparison(
        what="same domain less another domain, other seeds",
        number=f"{signed(observed)} points of overlap",
        n=f"pairs of runs: {len(within)} and {len(apart)}",
        seeds=_seeds(pairs),
        test=f"permutation test, one-sided, {PERMUTATIONS} draws",
        p=(1 + at_least) / (1 + PERMUTATIONS),
        sign=1 if observed > 0 else -1,
        records=_records(pairs),
    )


def _seeds(pairs: Sequence[Pair]) -> tuple[int, ...]:
    return tuple(sorted({run.seed for pair in pairs for run in pair}))


def _records(pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.record for pair in pairs for run in pair))

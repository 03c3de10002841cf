"""Records that the questions share, and their comparison."""

import math
from collections.abc import Iterable, Sequence

from analysis.commands import SEEDS, TASKS
from analysis.findings._finding import Comparison
from analysis.measurements import (
    bypass_of,
    item_balance,
    loss_of,
    mean_and_stderr,
    one_per_seed,
    same_items,
    scorer_of,
    sign_test,
    update_ratio_of,
)
from analysis.names import task_order, task_title
from analysis.tables import anchor
from trimlab.records.results import Record, Records


def tasks_of(records: Records) -> list[str]:
    """The benchmarks of the tables, and what else is in the records, in the paper's order."""
    return sorted({*TASKS, *(record["task"] for record in records)}, key=task_order)


def trimmed(
    records: Records,
    scorer: str = "two_step",
    r: float = 0.25,
    ratio: float | None = 0.5,
    loss: str | None = None,
) -> Records:
    """Trimmed models on their own task, of one score and sparse update ratio.

    Args:
        records: Records to choose from.
        scorer: Importance score.
        r: Sparse update ratio.
        ratio: Asked layer-memory ratio.
        loss: Training loss; None for any.
    """
    tests = records.where(kind="test", model="trimmed", asked_ratio=ratio)
    return Records(
        tuple(
            record
            for record in tests
            if record["task"] == record["evaluated_on"]
            and (scorer_of(record), update_ratio_of(record)) == (scorer, r)
            and bypass_of(record) == "residual"
            and loss in (None, loss_of(record))
        )
    )


def compare(
    what: str, ours: Iterable[Record], theirs: Iterable[Record], *, worse: bool = False
) -> Comparison | None:
    """Compares two models on the same test items, by the seeds that both have.

    The test is an exact sign test over the items, each counted once: for the model with more right
    answers over the seeds. The standard error is over items and seeds.

    Args:
        what: Name of the comparison.
        ours: Records of the model that the question is about.
        theirs: Records of the other one.
        worse: The question is whether ours is the worse one.

    Returns:
        The comparison; None without a seed that both have, or on different items.
    """
    by_seed = {record["seed"]: record for record in one_per_seed(theirs)}
    pairs = [(one, by_seed[one["seed"]]) for one in one_per_seed(ours) if one["seed"] in by_seed]
    both = [record for pair in pairs for record in pair]
    if not both or not same_items(both) or None in [record["correct"] for record in both]:
        return None
    left, right = [one for one, _ in pairs], [other for _, other in pairs]
    by_item = item_balance(left, right)
    differences = [one["value"] - other["value"] for one, other in pairs]
    mean, over_seeds = mean_and_stderr(differences)
    _, over_items = mean_and_stderr([100 * balance / len(pairs) for balance in by_item])
    stderr = math.hypot(over_items or 0.0, over_seeds or 0.0)
    won, lost = sum(b > 0 for b in by_item), sum(b < 0 for b in by_item)
    return Comparison(
        what=what,
        number=f"{signed(mean)} ± {stderr:.1f} points",
        n=f"{len(by_item)} items",
        seeds=tuple(one["seed"] for one in left),
        test=f"sign test, {won} : {lost}",
        p=sign_test(won, lost),
        sign=common_sign(differences) * (-1 if worse else 1),
        records=tuple(map(anchor, both)),
    )


def signed(value: float, decimals: int = 1) -> str:
    """A number with its sign."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def common_sign(values: Sequence[float]) -> int:
    """1 or -1 if all values have that sign, otherwise 0."""
    return all(value > 0 for value in values) - all(value < 0 for value in values)


def titles(tasks: Iterable[str]) -> list[str]:
    """The titles of tasks, in the paper's order."""
    return [task_title(task) for task in sorted(tasks, key=task_order)]


def incomplete(comparison: Comparison | None) -> bool:
    """Whether a comparison is missing, or has too few seeds."""
    return comparison is None or len(comparison.seeds) < SEEDS

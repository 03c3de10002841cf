"""What trimming has cost in accuracy, in words: no table, page or model card leaves it unsaid."""

import math
import statistics
from typing import NamedTuple

from trimlab.records.model_result import TaskResult

KEPT_SHARE = 0.9  # of the fine-tuned model's score: the paper's threshold C_a
ADVICE = (
    "What helps: more optimizer steps after drops (trim.epochs_per_drop, "
    "trim.epochs_after_last_drop), starting from the fine-tuned model if this run did not "
    "(run.trim_from fine_tuned), a higher target, or a stop rule (trim.min_accuracy_share 0.9)."
)


class Difference(NamedTuple):
    """Difference of two scores on the same items, in points.

    Attributes:
        value: Ours minus the other.
        stderr: Its standard error: paired where the answers to every item are known.
    """

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} ± {self.stderr:.1f} points".replace("-", "\N{MINUS SIGN}")

    @property
    def is_clear(self) -> bool:
        """Whether it is larger than two standard errors."""
        return abs(self.value) > 2 * self.stderr


def difference(ours: TaskResult, other: TaskResult) -> Difference:
    """Compares two models on the same items.

    Args:
        ours: Score of a model.
        other: Score of another one.
    """
    if not ours.correct or not other.correct or ours.n != other.n or ours.n < 2:
        return Difference(ours.value - other.value, math.hypot(ours.stderr, other.stderr))
    pairs = [100 * (int(a) - int(b)) for a, b in zip(ours.correct, other.correct, strict=True)]
    return Difference(statistics.fmean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5)


def lost_accuracy(
    trimmed: TaskResult, untrimmed: TaskResult | None, fine_tuned: TaskResult | None
) -> list[str]:
    """Says where a trimmed model is worse than what it came from, and what helps.

    Args:
        trimmed: Test result of the trimmed model.
        untrimmed: That of the base model.
        fine_tuned: That of the model fine-tuned at full depth.

    Returns:
        Sentences; none where the model is above the untrimmed one and keeps nine tenths of the
        fine-tuned one's score, or what is missing is within two standard errors.
    """
    said = []
    if untrimmed is not None and (below := difference(trimmed, untrimmed)).value < 0:
        how = "worse than" if below.is_clear else "not better than"
        said.append(f"The trimmed model is {how} the untrimmed one: {below}.")
    if fine_tuned is not None and fine_tuned.value > 0:
        share = trimmed.value / fine_tuned.value
        missing = difference(trimmed, fine_tuned)
        if share < KEPT_SHARE and missing.is_clear:
            said.append(
                f"The trimmed model keeps {100 * share:.1f} % of the score of the model fine-tuned "
                f"at full depth: {missing}."
            )
    return [*said, ADVICE] if said else []

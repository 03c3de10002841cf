"""Measurements: means over seeds, their standard errors, and paired tests."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

from analysis.stability import flat_stability, item_fingerprint
from trimlab.records.result_row import Test
from trimlab.records.results import Record, Records

# The share of the fine-tuned model's accuracy that trimming must hold (Tables 3 and 6)
KEPT_SHARE = 0.9
# The options of `Trim` in a cell that sets none
DEFAULT_SCORER, DEFAULT_R, DEFAULT_BYPASS = "two_step", 0.25, "residual"
DEFAULT_LOSS = "answers"  # that of `DomainLM`
# The optional numbers of a test row that are neither standard errors nor sizes
EXTRA_METRICS = tuple(
    declared.name
    for declared in fields(Test)
    if declared.default is None
    and declared.type == float | None
    and not declared.name.endswith(("_stderr", "_memory_ratio"))
)
# Options with a place of their own in tables and figures
NAMED_OPTIONS = frozenset({"trim.scorer", "trim.r", "trim.bypass", "data.task", "model.base"})


def override(record: Record, name: str, kind: Any, default: Any) -> Any:
    """The value of an option in the cell of a record.

    Args:
        record: The record.
        name: Dotted name of the option.
        kind: Its type.
        default: The value if the cell does not set it.

    Raises:
        InputError: The option has a value of another type.
    """
    return record.entry("cell", name, kind, default)


def scorer_of(record: Record) -> str:
    """The importance score of the run."""
    return override(record, "trim.scorer", str, DEFAULT_SCORER)


def update_ratio_of(record: Record) -> float:
    """The sparse update ratio r of the run."""
    return override(record, "trim.r", float, DEFAULT_R)


def loss_of(record: Record) -> str:
    """The training loss of the run."""
    return override(record, "model.loss", str, DEFAULT_LOSS)


def bypass_of(record: Record) -> str:
    """The bypass of a dropped attention: the residual identity, or the authors' norm."""
    return override(record, "trim.bypass", str, DEFAULT_BYPASS)


def other_overrides(record: Record) -> str:
    """Other options in the cell of a record that change the model, as text after a comma.

    Options of the section `run` choose the measurements of a model and `trim.save_at` the models
    that are measured: neither changes a model.
    """
    others = {
        name.rpartition(".")[2]: value
        for name, value in record["cell"].items()
        if name not in NAMED_OPTIONS and name != "trim.save_at" and not name.startswith("run.")
    }
    return "".join(f", {name} {value}" for name, value in others.items())


@dataclass(frozen=True)
class PairedTest:
    """Exact sign test of a model against a reference on the same items.

    An item counts for the model with more right answers over the seeds. With one seed this is
    McNemar's exact test. (The sum of the discordant pairs of several seeds would count an item
    several times, as if its answers were independent.)

    Attributes:
        won: Items with more right answers of the model.
        lost: Items with more right answers of the reference.
        p: Two-sided probability of a split at least as uneven between equally good models.
        against: Name of the reference.
        p_holm: `p` corrected for the tests of the same table; None for one seed, which is no
            finding.
    """

    won: int
    lost: int
    p: float
    against: str
    p_holm: float | None = None


@dataclass(frozen=True)
class Measurement:
    """A mean over seeds.

    Attributes:
        mean: The mean.
        stderr: Standard error over seeds and items: the root of the sum of the two squares below.
            Slightly too large, since both contain the interaction of items and seeds.
        stderr_items: Standard error over the items (of the items' means over the seeds).
        stderr_seeds: Standard error over the seeds; None for one seed.
        n: Number of items.
        records: Its records, by seed.
        test: Paired test against fine-tuning at full depth with as many optimizer steps.
        extra_metrics: Means of the measured `EXTRA_METRICS`; None without any.
        flat_stability: Mean agreement with the untrimmed model, see the function of this name;
            None without that model's answers.
    """

    mean: float
    stderr: float | None = None
    stderr_items: float | None = None
    stderr_seeds: float | None = None
    n: int | None = None
    records: tuple[Record, ...] = ()
    test: PairedTest | None = None
    extra_metrics: dict[str, float] | None = None
    flat_stability: float | None = None

    @property
    def dirty(self) -> bool:
        """Whether any record was measured with uncommitted code."""
        return any(record.dirty for record in self.records)

    @property
    def one_seed(self) -> bool:
        """Whether an accuracy after training is that of a single seed, which is no finding."""
        if self.n is None or len(self.records) != 1:
            return False
        return self.records[0].get("optimizer_steps") != 0


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, None for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def one_per_seed(records: Iterable[Record]) -> tuple[Record, ...]:
    """The first record of every seed, in the order of the seeds."""
    by_seed: dict[int, Record] = {}
    for record in records:
        by_seed.setdefault(record["seed"], record)
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def measure(
    records: Iterable[Record],
    value: str | Callable[[Record], float] = "value",
    references: Records | None = None,
) -> Measurement | None:
    """The mean of a value over the seeds.

    Args:
        records: Records of one model and one task; the first of every seed counts.
        value: Name of a field, or a function of a record.
        references: Records to take the reference of a paired test from.

    Returns:
        The measurement; None without records.
    """
    found = one_per_seed(records)
    if not found:
        return None
    of = itemgetter(value) if isinstance(value, str) else value
    mean, stderr_seeds = mean_and_stderr([float(of(record)) for record in found])
    stderr_items = _stderr_over_items(found) if value == "value" else None
    parts = [part for part in (stderr_items, stderr_seeds) if part is not None]
    extra_metrics = {}
    for name in EXTRA_METRICS:
        values = [float(r[name]) for r in found if r.get(name) is not None]
        if values:
            extra_metrics[name] = math.fsum(values) / len(values)
    return Measurement(
        mean=mean,
        stderr=math.hypot(*parts) if parts else None,
        stderr_items=stderr_items,
        stderr_seeds=stderr_seeds,
        n=found[0].get("n"),
        records=found,
        test=None if references is None else paired_test(found, references),
        extra_metrics=extra_metrics or None,
        flat_stability=None if references is None else flat_stability(found, references),
    )


def _stderr_over_items(records: Sequence[Record]) -> float:
    rights = [record["correct"] for record in records]
    if None in rights or not same_items(records):
        # the errors of the seeds may be correlated: no division by their number
        return math.sqrt(math.fsum(r["stderr"] ** 2 for r in records) / len(records))
    items = [100 * sum(map(int, item)) / len(rights) for item in zip(*rights, strict=True)]
    return mean_and_stderr(items)[1] or 0.0


def same_items(records: Sequence[Record]) -> bool:
    """Whether records have the same test items, in the same order."""
    return len({(item_fingerprint(record), record["n"]) for record in records}) == 1


def sign_test(won: int, lost: int) -> float:
    """Two-sided exact p-value of a sign test."""
    tosses, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(tosses, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**tosses)


def paired_test(records: Sequence[Record], references: Records) -> PairedTest | None:
    """Tests a model against a full-depth model with as many optimizer steps.

    The reference is full fine-tuning (r = 1) if every seed has it, otherwise the full-depth model
    of the same run (the same r).

    Args:
        records: Records of one model, one per seed.
        references: Records to take the reference from.

    Returns:
        The test. None without a reference, or if the seeds have different test items.
    """
    if not same_items(records):
        return None
    for against, pairs in (
        ("full fine-tuning", [_reference(r, references, r=1) for r in records]),
        ("sparse fine-tuning", [_reference(r, references, run=r["run"]) for r in records]),
    ):
        if any(
            reference is None or reference is r for r, reference in zip(records, pairs, strict=True)
        ):
            continue
        balance = item_balance(records, [pair for pair in pairs if pair])
        won, lost = sum(b > 0 for b in balance), sum(b < 0 for b in balance)
        return PairedTest(won, lost, sign_test(won, lost), against)
    return None


def item_balance(ours: Sequence[Record], theirs: Sequence[Record]) -> list[int]:
    """Right answers of the first less those of the second, summed over the seeds, by item.

    Args:
        ours: Records of one model, one per seed.
        theirs: Records of another model for the same seeds and items.
    """
    balance = [0] * ours[0]["n"]
    for one, other in zip(ours, theirs, strict=True):
        for item, (a, b) in enumerate(zip(one["correct"], other["correct"], strict=True)):
            balance[item] += int(a) - int(b)
    return balance


def _reference(
    record: Record, references: Records, r: float | None = None, run: str | None = None
) -> Record | None:
    """The fine-tuned model that differs in the drops only and, with `r`, in the update ratio."""
    same = ("base", "task", "evaluated_on", "seed", "optimizer_steps", "n", "row_sets")
    for reference in references.where(kind="test", model="fine_tuned", seed=record["seed"]):
        if (
            all(reference[field] == record[field] for field in same)
            and (r is None or update_ratio_of(reference) == r)
            and (run is None or reference["run"] == run)
            and None not in (record["correct"], reference["correct"])
        ):
            return reference
    return None


def final_memory(points: Iterable[Record]) -> float | None:
    """The layer-memory ratio of the last operating point before accuracy falls too low.

    Too low is a dev accuracy below `KEPT_SHARE` of the accuracy at full depth.

    Args:
        points: The operating points of one run.

    Returns:
        The ratio. None without an operating point at full depth.
    """
    in_order = sorted(points, key=lambda point: point["step"])
    if not in_order or in_order[0]["history"]:
        return None
    ratio = None
    for point in in_order:
        if point["dev"] < KEPT_SHARE * in_order[0]["dev"]:
            break
        ratio = point["layer_memory_ratio"]
    return ratio

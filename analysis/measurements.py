"""From records to one measured number: the mean over seeds, its standard error, a paired test."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trimlab.records.results import Record, Records

# what an operating point must keep of the fine-tuned model's accuracy to count (Tables 3 and 6)
KEPT_SHARE = 0.9
# what `Trim` does where neither a cell nor its name says otherwise
DEFAULT_SCORER, DEFAULT_R, DEFAULT_BYPASS = "two_step", 0.25, "residual"
# measured beside accuracy where a sweep asks for it
FURTHER = ("value_normalised", "stability", "exact_match", "tokens_per_second")


def override(record: Record, name: str, default: Any) -> Any:
    """What the cell of a record sets an option to; the option's last name is enough."""
    for key, value in record["cell"].items():
        if key.rpartition(".")[2] == name:
            return value
    return default


def scorer_of(record: Record) -> str:
    """The importance score that chose the drops."""
    return override(record, "scorer", DEFAULT_SCORER)


def update_ratio_of(record: Record) -> float:
    """The sparse update ratio r."""
    return override(record, "r", DEFAULT_R)


def bypass_of(record: Record) -> str:
    """What stands in for a dropped attention: the residual identity, or the authors' norm."""
    return override(record, "bypass", DEFAULT_BYPASS)


def other_overrides(record: Record) -> str:
    """What else the cell of a record overrides, as text after a comma; mostly nothing."""
    # named elsewhere, or without a part in what a model is
    named = {"scorer", "r", "bypass", "task", "base"}
    named |= {"save_at", "full_depth", "generate", "speed", "compare"}
    named |= {"extra_metrics", "eval_tasks", "further", "also_on"}  # and their earlier names
    others = {key.rpartition(".")[2]: value for key, value in record["cell"].items()}
    return "".join(f", {name} {value}" for name, value in others.items() if name not in named)


@dataclass(frozen=True)
class PairedTest:
    """Exact sign test of a model against its reference on the same items.

    An item counts for the model that answered it right under more of the seeds. With one seed this
    is McNemar's exact test. (Adding up the discordant pairs of several seeds instead would count
    an item several times, as if its answers were independent.)

    Attributes:
        won: Items that only, or more often, the model answered right.
        lost: Items that only, or more often, the reference answered right.
        p: Two-sided probability of a split at least as uneven, were both equally good.
        against: The reference.
    """

    won: int
    lost: int
    p: float
    against: str


@dataclass(frozen=True)
class Measurement:
    """A mean over seeds.

    Attributes:
        mean: The mean.
        stderr: Standard error over seeds and items: the root of the sum of the two squares below,
            a little more than the truth since what items and seeds do together is in both.
        stderr_items: Standard error over the items (of the items' means over the seeds).
        stderr_seeds: Standard error over the seeds; None for one seed.
        n: Items.
        records: Where it comes from, by seed.
        test: Against full fine-tuning with as many optimizer steps.
        further: Means of what else was measured.
    """

    mean: float
    stderr: float | None
    stderr_items: float | None
    stderr_seeds: float | None
    n: int | None
    records: tuple[Record, ...]
    test: PairedTest | None = None
    further: dict[str, float] | None = None

    @property
    def dirty(self) -> bool:
        """Whether any of it was measured with code that is in no commit."""
        return any(record.dirty for record in self.records)


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, which one value has not."""
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
    records: Iterable[Record], field: str = "value", references: Records | None = None
) -> Measurement | None:
    """One number from the records of several seeds.

    Args:
        records: Of one model, one task; the first of every seed counts.
        field: What is averaged.
        references: Fine-tuned models to test against.

    Returns:
        The measurement, or None where there is no record.
    """
    found = one_per_seed(records)
    if not found:
        return None
    mean, stderr_seeds = mean_and_stderr([float(record[field]) for record in found])
    stderr_items = _stderr_over_items(found) if field == "value" else None
    parts = [part for part in (stderr_items, stderr_seeds) if part is not None]
    further = {}
    for name in FURTHER:
        values = [float(r[name]) for r in found if r.get(name) is not None]
        if values:
            further[name] = math.fsum(values) / len(values)
    return Measurement(
        mean=mean,
        stderr=math.hypot(*parts) if parts else None,
        stderr_items=stderr_items,
        stderr_seeds=stderr_seeds,
        n=found[0].get("n"),
        records=found,
        test=None if references is None else paired_test(found, references),
        further=further or None,
    )


def _stderr_over_items(records: Sequence[Record]) -> float:
    rights = [record["correct"] for record in records]
    if None in rights or not same_items(records):
        # their errors may have much in common, and are not averaged out
        return math.sqrt(math.fsum(r["stderr"] ** 2 for r in records) / len(records))
    items = [100 * sum(map(int, item)) / len(rights) for item in zip(*rights, strict=True)]
    return mean_and_stderr(items)[1] or 0.0


def same_items(records: Sequence[Record]) -> bool:
    """Whether records are about the same test items, which stand in the same order then."""
    return len({(record["row_sets"]["test"], record["n"]) for record in records}) == 1


def sign_test(won: int, lost: int) -> float:
    """Two-sided exact p of a fair coin that falls this unevenly."""
    tosses, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(tosses, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**tosses)


def paired_test(records: Sequence[Record], references: Records) -> PairedTest | None:
    """Tests a model against the fine-tuned full-depth model with as many optimizer steps.

    Full fine-tuning (r = 1) is the reference where every seed has it, otherwise the full-depth
    model of the same run, which trains the same share r. None where neither is there, or where the
    seeds were tested on different items.
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
        balance = [0] * records[0]["n"]
        for record, reference in zip(records, pairs, strict=True):
            assert reference is not None
            answers = zip(record["correct"], reference["correct"], strict=True)
            for item, (a, b) in enumerate(answers):
                balance[item] += int(a) - int(b)
        won, lost = sum(b > 0 for b in balance), sum(b < 0 for b in balance)
        return PairedTest(won, lost, sign_test(won, lost), against)
    return None


def _reference(
    record: Record, references: Records, r: float | None = None, run: str | None = None
) -> Record | None:
    """The fine-tuned model that differs in nothing but the drops and, perhaps, r."""
    same = ("base", "task", "evaluated_on", "seed", "optimizer_steps", "n", "row_sets")
    for reference in references.where(kind="test", model="fine_tuned"):
        if (
            all(reference[field] == record[field] for field in same)
            and (r is None or update_ratio_of(reference) == r)
            and (run is None or reference["run"] == run)
            and None not in (record["correct"], reference["correct"])
        ):
            return reference
    return None


def final_memory(points: Iterable[Record]) -> float | None:
    """Least layer-memory ratio of a run up to which dev accuracy holds `KEPT_SHARE` of step 0.

    None for a run that has no operating point at full depth to compare with.
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

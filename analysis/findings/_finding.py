"""A finding: comparisons with their tests, the answer that they allow, and what is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from analysis.holm import holm
from trimlab.records.results import Series

LEVEL = 0.05
NOT_MEASURED = "not measured"
ONE_SEED = "no finding: one seed"
Verdict = Literal["yes", "the opposite", "not shown", "one seed", "not tested"]


@dataclass(frozen=True)
class Comparison:
    """Two things compared.

    Attributes:
        what: What is compared.
        number: Their difference, with its standard error and unit.
        n: Number and kind of the things that are paired.
        seeds: The seeds of both.
        test: Name of the test and its counts; None without a test.
        p: Its p-value.
        sign: 1 if the number has the sign that the question asks about in every seed, -1 for the
            other one in every seed, 0 if seeds differ.
        records: Anchors of the records.
        p_holm: `p` corrected for the comparisons of the same question and series.
    """

    what: str
    number: str
    n: str
    seeds: tuple[int, ...]
    test: str | None
    p: float | None
    sign: int
    records: tuple[str, ...] = ()
    p_holm: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it can be a finding: a tested one of several seeds."""
        return self.p is not None and len(self.seeds) > 1

    @property
    def verdict(self) -> Verdict:
        """A finding needs several seeds that agree, and a test that survives the correction."""
        if self.p is None:
            return "not tested"
        if len(self.seeds) < 2:
            return "one seed"
        if self.p_holm is None or self.p_holm >= LEVEL or self.sign == 0:
            return "not shown"
        return "yes" if self.sign > 0 else "the opposite"


def default_summary(comparisons: Sequence[Comparison]) -> str:
    """The answer to a question that asks for one sign in every comparison."""
    counted = [c for c in comparisons if c.counts]
    if not counted:
        return ONE_SEED if comparisons else NOT_MEASURED
    found = [c.verdict for c in counted]
    n, yes, opposite = len(found), found.count("yes"), found.count("the opposite")
    if yes and opposite:
        said = f"mixed: yes in {yes}, the opposite in {opposite}"
    elif yes:
        said = f"yes in {yes}"
    elif opposite:
        said = f"no: the opposite in {opposite}"
    else:
        said = "not shown in any"
    single = sum(len(c.seeds) < 2 for c in comparisons)
    said += f" of {n} comparison" + "s" * (n != 1)
    return said + (f" ({single} more with one seed)" if single else "")


@dataclass(frozen=True)
class Answer:
    """The answer of one series to a question.

    Attributes:
        comparisons: What was compared.
        missing: What is not measured, or not with three seeds.
        command: The command that measures it; None if nothing is missing.
        summarise: Makes the answer in a few words from the corrected comparisons.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    command: str | None = None
    summarise: Callable[[Sequence[Comparison]], str] = default_summary

    def corrected(self) -> "Answer":
        """The answer with its p-values corrected by Holm; one seed is no member of the family."""
        corrected = iter(holm([c.p or 0.0 for c in self.comparisons if c.counts]))
        return replace(
            self,
            comparisons=[
                replace(c, p_holm=next(corrected)) if c.counts else c for c in self.comparisons
            ],
        )

    @property
    def summary(self) -> str:
        """The answer in a few words."""
        return self.summarise(self.comparisons)


@dataclass(frozen=True)
class Finding:
    """A question and its answers.

    Attributes:
        name: Name of its file.
        question: The question.
        method: What is compared, and how.
        answers: The answer of every series.
    """

    name: str
    question: str
    method: str
    answers: dict[Series, Answer]

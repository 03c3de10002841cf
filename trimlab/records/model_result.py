"""What is reported of a model: its test results, its sizes, its speed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from trimlab.errors import InputError
from trimlab.records.rows import Row
from trimlab.records.typed import TypedRow, nullable, renamed


@dataclass(frozen=True, kw_only=True)
class TaskResult(TypedRow):
    """The score of a model on the test items of a task.

    Attributes:
        metric: Name of the task's metric.
        value: In [0, 100].
        stderr: Its standard error over the items.
        n: Number of items.
        correct: `"1"` for an item that is answered right, `"0"` for one that is not, in the order
            of the items; None where nothing is right or wrong (plain text).
    """

    metric: str
    value: float
    stderr: float
    n: int
    correct: str | None

    def check(self) -> None:
        """Refuses a score that its own answers contradict.

        Raises:
            InputError: `correct` has another length than `n`, or another share than `value`.
        """
        if self.correct is None:
            return
        if set(self.correct) - {"0", "1"} or len(self.correct) != self.n:
            raise InputError(f"`correct` is not one 0 or 1 for each of the {self.n} items")
        right = self.correct.count("1")
        if self.metric == "accuracy" and abs(100 * right / self.n - self.value) > 0.01:
            raise InputError(
                f"{right} of {self.n} items are correct, and the value is {self.value}"
            )


@dataclass(frozen=True, kw_only=True)
class TestResult(TaskResult):
    """The score of a model on its own task, and what else was measured there.

    Attributes:
        value_normalised: Length-normalised accuracy in percent (lm-evaluation-harness's
            `acc_norm`).
        stability: How far it keeps to what the untrimmed model knows (LLM-Streamline), in [0, 1].
        exact_match: Percent of items that it answers right in its own words.
        exact_match_stderr: Its standard error.
        exact_match_n: Number of those items.
        eval_tasks: Its scores on other tasks, by task.
    """

    __test__ = False  # its name is no reason for pytest to collect it

    value_normalised: float | None = nullable()
    stability: float | None = nullable()
    exact_match: float | None = nullable()
    exact_match_stderr: float | None = None
    exact_match_n: int | None = None
    eval_tasks: dict[str, TaskResult] = field(default_factory=dict, metadata=renamed("also_on"))

    def to_summary(self) -> Row:
        """The row as it stands in `summary.json`: the value under the name of its metric."""
        row = self.to_row()
        row[self.metric] = row.pop("value")
        row["eval_tasks"] = {name: result.to_row() for name, result in self.eval_tasks.items()}
        return row

    @classmethod
    def from_summary(cls, row: Mapping[str, Any], metric: str) -> Self:
        """Reads what `to_summary` wrote, or an earlier version.

        Args:
            row: The row.
            metric: The metric of the run.
        """
        missing = {"metric": metric, "value": row[metric], "dropped": []}
        result = cls.from_row(missing | dict(row))
        others: Any = result.eval_tasks
        return replace(
            result, eval_tasks={name: TaskResult.from_row(other) for name, other in others.items()}
        )


@dataclass(frozen=True, kw_only=True)
class ModelResult(TestResult):
    """A row of a run's summary: one model, as it was measured.

    Attributes:
        layer_memory_ratio: Bytes of its sublayers over those of the untrimmed model.
        model_memory_ratio: The same of the whole model, embeddings included.
        asked_ratio: The layer-memory ratio that it was exported for.
        optimizer_steps: Optimizer steps of its training.
        dropped: Dropped sublayers, in order; None where a baseline has compressed a model that
            was not trimmed.
        epochs: Epochs of its training, where that was a fit of its own.
        fit_seconds: What that fit took; None also where a kill has cut it in two.
        folder: Where it is on disk.
        tier: Export tier, T1 or T2.
        blocks: Number of blocks.
        bytes_on_disk: Size of the folder.
        logit_difference: Largest relative difference of the reloaded model's logits.
        tokens_per_second: Decoding speed.
        tokens_per_second_spread: Its interquartile range.
        untrimmed_tokens_per_second: That of the untrimmed model, in turns with it.
        untrimmed_tokens_per_second_spread: Its interquartile range.
        of: What a baseline has made smaller: `untrimmed`, `fine_tuned` or `trimmed`.
        title: Name of the baseline in papers.
        zeros: Share of its matrix entries that are zero.
    """

    layer_memory_ratio: float = 1.0
    model_memory_ratio: float = 1.0
    asked_ratio: float | None = None
    optimizer_steps: int = 0
    dropped: list[str] | None = nullable()  # noqa: RUF009 (it returns a field)
    epochs: int | None = None
    fit_seconds: float | None = None
    folder: str | None = None
    tier: str | None = None
    blocks: int | None = None
    bytes_on_disk: int | None = None
    logit_difference: float | None = None
    tokens_per_second: float | None = None
    tokens_per_second_spread: float | None = None
    untrimmed_tokens_per_second: float | None = None
    untrimmed_tokens_per_second_spread: float | None = None
    of: str | None = None
    title: str | None = None
    zeros: float | None = None

    @classmethod
    def from_test(cls, test: TestResult, **about: Any) -> Self:
        """Adds to a test result the other fields of a row of the summary.

        Args:
            test: The test result.
            **about: Fields of this class.
        """
        return cls(**vars(test), **about)

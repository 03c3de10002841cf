"""Reported results of a model: test results, sizes, speed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from trimlab.errors import InputError
from trimlab.records.rows import JsonObject
from trimlab.records.typed import TypedRow, nullable, renamed


@dataclass(frozen=True, kw_only=True)
class TaskResult(TypedRow):
    """The score of a model on the test items of a task.

    Attributes:
        metric: Name of the task's metric.
        value: In [0, 100].
        stderr: Standard error over the items.
        n: Number of items.
        correct: `"1"` for every correct item and `"0"` for every other, in the order of the items;
            None for plain text.
    """

    metric: str
    value: float
    stderr: float
    n: int
    correct: str | None

    def check(self) -> None:
        """Refuses a score that contradicts the answers.

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
    """The score of a model on its own task, with further measurements.

    Attributes:
        value_normalised: Length-normalised accuracy in percent (lm-evaluation-harness's
            `acc_norm`).
        stability: Agreement with the untrimmed model (LLM-Streamline), in [0, 1].
        exact_match: Percent of items with a correct greedy answer.
        exact_match_stderr: Standard error of `exact_match`.
        exact_match_n: Number of items with a greedy answer.
        token_f1: Percent of the words that a greedy answer and the right one have in common (F1),
            a mean over the items.
        token_f1_stderr: Standard error of `token_f1`.
        eval_tasks: Scores on other tasks, by task.
    """

    __test__ = False  # its name is no reason for pytest to collect it

    value_normalised: float | None = nullable()
    stability: float | None = nullable()
    exact_match: float | None = nullable()
    exact_match_stderr: float | None = None
    exact_match_n: int | None = None
    token_f1: float | None = None
    token_f1_stderr: float | None = None
    eval_tasks: dict[str, TaskResult] = field(default_factory=dict, metadata=renamed("also_on"))

    def to_summary(self) -> JsonObject:
        """The row in `summary.json`, with the value under the name of the metric."""
        row = self.to_row()
        row[self.metric] = row.pop("value")
        row["eval_tasks"] = {name: result.to_row() for name, result in self.eval_tasks.items()}
        return row

    @classmethod
    def from_summary(cls, row: Mapping[str, Any], metric: str) -> Self:
        """Reads a row of this or an earlier version.

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
    """A row of a run's summary: one measured model.

    Attributes:
        layer_memory_ratio: Bytes of the sublayers over those of the untrimmed model.
        model_memory_ratio: The same ratio of the whole model, embeddings included.
        asked_ratio: Layer-memory ratio of `trim.save_at` or the target that led to the export.
        optimizer_steps: Optimizer steps of the training.
        dropped: Dropped sublayers, in order; None where a baseline has compressed a model that
            was not trimmed.
        epochs: Epochs of the training, where it was a separate fit.
        fit_seconds: Time of that fit; None also for a fit that was resumed.
        folder: The model's folder; None for a model that is not kept.
        tier: Export tier, T1 or T2.
        blocks: Number of blocks.
        bytes_on_disk: Size of the folder.
        logit_difference: Largest relative difference of the reloaded model's logits.
        tokens_per_second: Decoding speed.
        tokens_per_second_spread: Interquartile range of `tokens_per_second`.
        untrimmed_tokens_per_second: Speed of the untrimmed model, measured in turns.
        untrimmed_tokens_per_second_spread: Interquartile range of the same.
        of: The model that a baseline compressed: `untrimmed`, `fine_tuned` or `trimmed`.
        title: Name of the baseline in papers.
        zeros: Share of zeros among the matrix entries.
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

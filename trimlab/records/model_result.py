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
        layer_memory_ratio: Bytes of the kept sublayers over those of the untrimmed model, as in
            operating points, targets and `asked_ratio`. Sublayers of zeros, which fill the gaps of
            an export of tier T2, are not kept ones.
        model_memory_ratio: The same ratio of the whole model, embeddings included.
        stored_layer_memory_ratio: Bytes of the layers in the model's folder over those of the
            untrimmed model, sublayers of zeros included: the memory that the folder takes. Equal
            to `layer_memory_ratio` but in tier T2. Weights that are not quantised count alike in
            whatever type. None for a model without a folder, and in earlier versions.
        stored_model_memory_ratio: The same ratio of the whole model, embeddings included.
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
        dtype: Type of the written weights, such as `bfloat16`.
        packable_blocks: For tier T2, blocks that `trim.packable` leaves at the same ratio.
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
    stored_layer_memory_ratio: float | None = None
    stored_model_memory_ratio: float | None = None
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
    dtype: str | None = None
    packable_blocks: int | None = None
    tokens_per_second: float | None = None
    tokens_per_second_spread: float | None = None
    untrimmed_tokens_per_second: float | None = None
    untrimmed_tokens_per_second_spread: float | None = None
    of: str | None = None
    title: str | None = None
    zeros: float | None = None

    @property
    def memory_in_folder(self) -> tuple[float | None, float | None]:
        """The stored ratios of layers and of the whole model, also of earlier versions' results.

        None where they are not known: for a model of tier T2 of an earlier version.
        """
        if self.tier == "T2" or self.stored_layer_memory_ratio is not None:
            return self.stored_layer_memory_ratio, self.stored_model_memory_ratio
        return self.layer_memory_ratio, self.model_memory_ratio

    @classmethod
    def from_test(cls, test: TestResult, **about: Any) -> Self:
        """Adds to a test result the other fields of a row of the summary.

        Args:
            test: The test result.
            **about: Fields of this class.
        """
        return cls(**vars(test), **about)


def with_stderr(value: float, stderr: float) -> str:
    """A value with its standard error, in words."""
    return f"{value:.1f} ± {stderr:.1f}"

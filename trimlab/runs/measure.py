"""Measurements of a model on test items: of its own task, and of others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimlab.data.domain import DomainData
from trimlab.data.heuristic_baselines import majority_accuracy, word_overlap_accuracy
from trimlab.data.items import Item
from trimlab.data.splits import RowSets, read_test_items
from trimlab.data.task import load_task
from trimlab.evaluation.answers import Answers, answer, normalised_score
from trimlab.evaluation.generation import WrittenAnswers, written_answers
from trimlab.evaluation.metrics import Estimate, MetricName, stability
from trimlab.files import atomic_file, locked, write_text
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack
from trimlab.records.identity import config_hash
from trimlab.records.model_result import TaskResult, TestResult
from trimlab.records.rows import JsonObject
from trimlab.runs.options import RunOptions


@dataclass(frozen=True)
class Measured:
    """Measurements of a model on the items of a set.

    Attributes:
        answers: Its answers, with the task's metric.
        normalised: Length-normalised accuracy, if extra metrics are measured.
        written: Scores of greedy answers, if there are any.
    """

    answers: Answers
    normalised: Estimate | None = None
    written: WrittenAnswers | None = None


def measure(
    stack: SublayerStack,
    data: DomainData,
    items: Sequence[Item],
    *,
    metric: MetricName,
    extra_metrics: bool = False,
    generate: int = 0,
    progress: bool = False,
    name: str = "evaluate",
) -> Measured:
    """Measures a model on items, in the batches and at the text length of a domain.

    Args:
        stack: The model, on the device that computes.
        data: Tokenises and batches the items, which may be another task's.
        items: The items.
        metric: Metric of the items' task. Accuracy alone has extra metrics.
        extra_metrics: Compute the likelihood of every choice, and length-normalised accuracy.
        generate: Number of items that the model also answers in its own words; plain text has no
            answers.
        progress: Show bars with the time left.
        name: Name in front of the bars.
    """
    batches = data.evaluation_batches(items, stack.model.device)
    answers = answer(stack, batches, metric, full=extra_metrics, progress=progress, name=name)
    normalised = written = None
    if metric == "accuracy" and extra_metrics:
        normalised = normalised_score(answers, items)
    if generate:
        written = written_answers(
            stack,
            data.tokenizer,
            items[:generate],
            data.max_length,
            progress=progress,
            name=f"{name}: generate",
        )
    return Measured(answers, normalised, written)


def heuristic_baselines(rows: RowSets, metric: MetricName) -> dict[str, float]:
    """Accuracy in percent without a model; empty without alternatives to choose from."""
    if metric != "accuracy":
        return {}
    return {
        "word_overlap": word_overlap_accuracy(rows.test),
        "majority": majority_accuracy(rows.train, rows.test),
        "n": len(rows.test),
    }


@dataclass(frozen=True)
class Tester:
    """Tests the models of a run.

    The untrimmed model's likelihoods are kept: stability compares with them. They and its test
    result are kept in `options.shared` where that is given, under a hash of all they depend on.

    Attributes:
        data: The domain, set up.
        options: What is measured.
        base: The untrimmed model's name.
        fingerprint: Fingerprint of its weights.
        device: Where models compute.
        dtype: The type in which the untrimmed model computes.
        progress: Show bars with the time left.
        folder: The run folder.
    """

    data: DomainData
    options: RunOptions
    base: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    progress: bool
    folder: Path

    def untrimmed(self, stack: SublayerStack) -> TestResult:
        """Tests the untrimmed model, or reads what another run found."""
        folder = self._untrimmed_folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".untrimmed.lock"):  # runs side by side measure it once
            return self._untrimmed(stack, folder / "untrimmed.json")

    def test(self, stack: SublayerStack, name: str) -> TestResult:
        """Tests another model.

        Args:
            stack: The model; it is moved to the device.
            name: Its name in progress bars.
        """
        measured = self._measure(stack, name)
        kept = None
        if measured.normalised is not None:
            answers = measured.answers
            likelihoods = self._untrimmed_likelihoods()  # (N, K)
            kept = float(stability(likelihoods, answers.likelihoods, answers.tokens, answers.gold))
        return self._result(measured, stack, name, kept)

    # ---- inside -------------------------------------------------------------------------------

    def _untrimmed(self, stack: SublayerStack, path: Path) -> TestResult:
        if self.options.shared is not None and path.exists():
            metric = self.data.task.metric
            return TestResult.from_summary(json.loads(path.read_text()), metric)
        measured = self._measure(stack, "untrimmed")
        if self.data.task.metric == "accuracy" and self.options.extra_metrics:
            self._keep_likelihoods(measured.answers)
        result = self._result(measured, stack, "untrimmed")
        if self.options.shared is not None:
            write_text(path, json.dumps(result.to_summary()))
        return result

    @property
    def _generate(self) -> int:
        """Number of items that a model answers in its own words."""
        asked = self.options.generate
        return self.data.task.generate if asked is None else asked

    @property
    def _test_items(self) -> list[Item]:
        assert self.data.rows is not None
        return self.data.rows.test

    def _measure(self, stack: SublayerStack, name: str) -> Measured:
        stack.model.to(self.device)  # type: ignore[arg-type]
        return measure(
            stack,
            self.data,
            self._test_items,
            metric=self.data.task.metric,
            extra_metrics=self.options.extra_metrics,
            generate=self._generate,
            progress=self.progress,
            name=name,
        )

    def _result(
        self, measured: Measured, stack: SublayerStack, name: str, kept: float | None = None
    ) -> TestResult:
        metric, written = self.data.task.metric, measured.written
        value, stderr, n = measured.answers.score
        return TestResult(
            metric=metric,
            value=value,
            stderr=stderr,
            n=n,
            correct=measured.answers.correct if metric == "accuracy" else None,
            value_normalised=None if measured.normalised is None else measured.normalised.value,
            stability=kept,
            **({} if written is None else written.to_fields()),
            eval_tasks={task: self._test_on(task, stack, name) for task in self.options.eval_tasks},
        )

    def _test_on(self, other: str, stack: SublayerStack, name: str) -> TaskResult:
        """Tests on another task, in the run's prompt format or else in that task's first."""
        data = self.data
        task = load_task(other).with_tokenizer(data.tokenizer)
        prompt = data.prompt if data.prompt in task.prompts else task.prompts[0]
        items = read_test_items(task, data.source.for_another_task(), data.test_rows, prompt=prompt)
        items = data.usable(items, other)
        answers = answer(
            stack,
            data.evaluation_batches(items, stack.model.device),
            task.metric,
            full=self.options.extra_metrics,
            progress=self.progress,
            name=f"{name}: {other}",
        )
        value, stderr, n = answers.score
        correct = answers.correct if task.metric == "accuracy" else None
        return TaskResult(metric=task.metric, value=value, stderr=stderr, n=n, correct=correct)

    @property
    def _untrimmed_folder(self) -> Path:
        """Folder of the untrimmed model's results: this run's, or one for several runs."""
        if self.options.shared is None:
            return self.folder
        assert self.data.rows is not None
        depends_on: JsonObject = {
            "model": self.fingerprint,
            "test": self.data.rows.fingerprints()["test"],
            "rows": self.data.test_rows,
            "prompt": self.data.prompt,
            "max_length": self.data.max_length,
            "measures": [
                self.options.extra_metrics,
                self._generate,
                *self.options.eval_tasks,
            ],
        }
        if self.dtype != torch.float32:
            depends_on["dtype"] = str(self.dtype)
        if self.data.task.metric != "accuracy":
            depends_on["metric"] = self.data.task.metric
        return self.options.shared / config_hash(depends_on)

    def _untrimmed_likelihoods(self) -> Tensor:
        """The untrimmed model's log-likelihoods of the test items' choices.  # (N, K)"""
        path = self._untrimmed_folder / "untrimmed.safetensors"
        if not path.exists():
            stack = SublayerStack(load_model(self.base, dtype=self.dtype)[0])
            self._keep_likelihoods(self._measure(stack, "untrimmed").answers)
        return load_file(path)["likelihoods"]

    def _keep_likelihoods(self, answers: Answers) -> None:
        self._untrimmed_folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self._untrimmed_folder / "untrimmed.safetensors") as part:
            save_file({"likelihoods": answers.likelihoods}, part)

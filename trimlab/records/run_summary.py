"""The summary of a run, `summary.json`: filled phase by phase, read by whoever reports the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from trimlab.records.model_result import ModelResult
from trimlab.records.result_row import ModelName, RunContext
from trimlab.records.rows import Row

COMPARED = "compared_"  # earlier versions wrote a key `compared_<method>` for each baseline


@dataclass(kw_only=True)
class RunSummary:
    """What a run has come to so far; a part that is not there yet is None.

    Attributes:
        context: Model, data, code and hardware.
        seed: Seed of everything.
        metric: Metric of the task.
        data_root: Folder of local rows, if they are local.
        test_rows: Most test rows, if they are limited.
        phase_seconds: What each phase took.
        fit_seconds: What trimming took; None also where a kill has cut it in two.
        heuristic_baselines: What is reached without a model, in percent.
        untrimmed: The model as it came.
        fine_tuned: The model fine-tuned at full depth for as many steps.
        models: The trimmed models, the final one last.
        compared: What each baseline made, by its name.
        stopped_because: Why trimming ended.
    """

    context: RunContext
    seed: int
    metric: str
    data_root: str | None = None
    test_rows: int | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    fit_seconds: float | None = None
    heuristic_baselines: dict[str, float] | None = None
    untrimmed: ModelResult | None = None
    fine_tuned: ModelResult | None = None
    models: list[ModelResult] | None = None
    compared: dict[str, list[ModelResult]] = field(default_factory=dict)
    stopped_because: str | None = None
    finished: bool = False

    @property
    def trimmed(self) -> ModelResult:
        """The final model."""
        assert self.models
        return self.models[-1]

    def named_models(self) -> list[tuple[ModelName, ModelResult]]:
        """The models of the run itself, by what they are: the final one last."""
        found: list[tuple[ModelName, ModelResult | None]] = [
            ("untrimmed", self.untrimmed),
            ("fine_tuned", self.fine_tuned),
            *(("trimmed", model) for model in self.models or []),
        ]
        return [(name, model) for name, model in found if model is not None]

    def to_row(self) -> Row:
        """The summary as it is written."""
        row: Row = {"metric": self.metric, "data_root": self.data_root, "test_rows": self.test_rows}
        row |= {"seed": self.seed, **self.context.to_row()}
        row |= {"phase_seconds": self.phase_seconds, "fit_seconds": self.fit_seconds}
        for name in ("heuristic_baselines", "stopped_because"):
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        for name in ("untrimmed", "fine_tuned"):
            model: ModelResult | None = getattr(self, name)
            if model is not None:
                row[name] = model.to_summary()
        if self.models is not None:
            row["models"] = [model.to_summary() for model in self.models]
        row["compared"] = {
            method: [model.to_summary() for model in made] for method, made in self.compared.items()
        }
        if self.finished:
            row["trimmed"] = self.trimmed.to_summary()
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Reads what `to_row` wrote, or an earlier version.

        Raises:
            InputError: A field is missing.
        """
        metric = row["metric"]

        def model(found: Mapping[str, Any]) -> ModelResult:
            return ModelResult.from_summary(found, metric)

        compared = {k.removeprefix(COMPARED): v for k, v in row.items() if k.startswith(COMPARED)}
        compared |= row.get("compared", {})
        return cls(
            context=RunContext.from_row(row),
            seed=row["seed"],
            metric=metric,
            data_root=row.get("data_root"),
            test_rows=row.get("test_rows"),
            phase_seconds=dict(row.get("phase_seconds", {})),
            fit_seconds=row.get("fit_seconds"),
            heuristic_baselines=row.get("heuristic_baselines", row.get("shortcuts")),
            untrimmed=model(row["untrimmed"]) if "untrimmed" in row else None,
            fine_tuned=model(row["fine_tuned"]) if "fine_tuned" in row else None,
            models=[model(found) for found in row["models"]] if "models" in row else None,
            compared={method: [model(m) for m in made] for method, made in compared.items()},
            stopped_because=row.get("stopped_because"),
            finished="trimmed" in row,
        )

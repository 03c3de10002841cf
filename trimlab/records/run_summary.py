"""The summary of a run, `summary.json`, filled phase by phase."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from trimlab.records.model_result import ModelResult
from trimlab.records.result_row import ModelName, RunContext
from trimlab.records.rows import JsonObject

COMPARED = "compared_"  # earlier versions wrote a key `compared_<method>` for each baseline


@dataclass(kw_only=True)
class RunSummary:
    """The results of a run so far; None for phases to come.

    Attributes:
        context: Model, data, code and hardware.
        seed: Seed of everything.
        metric: Metric of the task.
        data_root: Folder or file of the rows, if they are local.
        data_options: Further options of their source, where they differ from the defaults.
        test_rows: Largest number of test rows, if it is limited.
        phase_seconds: Time of each phase, in seconds.
        fit_seconds: Time of trimming; None also for a fit that was resumed.
        heuristic_baselines: Accuracy without a model, in percent.
        untrimmed: The base model.
        fine_tuned: The model fine-tuned at full depth for as many epochs.
        models: The trimmed models, the final one last.
        compared: Models that baselines made, by baseline.
        stopped_because: Reason why trimming ended.
        finished: Whether every phase has ended.
        data: What reading the rows has found: counts, cuts, rows left out, notes.
    """

    context: RunContext
    seed: int
    metric: str
    data_root: str | None = None
    data_options: JsonObject = field(default_factory=dict)
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
    data: JsonObject | None = None

    @property
    def trimmed(self) -> ModelResult:
        """The final model."""
        assert self.models
        return self.models[-1]

    @property
    def has_zeros(self) -> bool:
        """Whether a trimmed model on disk fills gaps with sublayers of zeros (tier T2)."""
        return any(model.tier == "T2" for model in self.models or [])

    def named_models(self) -> list[tuple[ModelName, ModelResult]]:
        """The models of the run itself, with their names in the results; the final one last."""
        found: list[tuple[ModelName, ModelResult | None]] = [
            ("untrimmed", self.untrimmed),
            ("fine_tuned", self.fine_tuned),
            *(("trimmed", model) for model in self.models or []),
        ]
        return [(name, model) for name, model in found if model is not None]

    def with_folders(self, moved: Callable[[str], str]) -> Self:
        """The summary with other paths of the models' folders.

        Args:
            moved: Gives the new path for the present one.
        """

        def each(models: Iterable[ModelResult]) -> list[ModelResult]:
            return [
                model if model.folder is None else replace(model, folder=moved(model.folder))
                for model in models
            ]

        return replace(
            self,
            models=None if self.models is None else each(self.models),
            compared={method: each(made) for method, made in self.compared.items()},
        )

    def to_row(self) -> JsonObject:
        """The summary as a JSON object."""
        row: JsonObject = {
            "metric": self.metric,
            "data_root": self.data_root,
            "test_rows": self.test_rows,
        }
        if self.data_options:
            row["data_options"] = self.data_options
        row |= {"seed": self.seed, **self.context.to_row()}
        row |= {"phase_seconds": self.phase_seconds, "fit_seconds": self.fit_seconds}
        for name in ("data", "heuristic_baselines", "stopped_because"):
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
        """Reads a summary of this or an earlier version.

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
            data_options=dict(row.get("data_options", {})),
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
            data=row.get("data"),
        )

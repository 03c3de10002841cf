"""Models that a run is compared with: fine-tuned at full depth, and made smaller by baselines."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimlab import ranks
from trimlab.baseline import (
    CALIBRATION_TEXTS,
    Baseline,
    baseline_class,
    calibration_tokens,
    write_compressed,
)
from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.files import atomic_folder
from trimlab.model.sizes import StoredSizes, dead_sublayers
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.records.model_result import ModelResult, TestResult
from trimlab.records.rows import JsonObject
from trimlab.records.run_summary import RunSummary
from trimlab.runs.fitting import CHECKPOINTS, MakeTrainer, fit
from trimlab.runs.folder import RunFolder
from trimlab.runs.measure import Tester
from trimlab.runs.tracking import Tracker, TrackFit
from trimlab.training.checkpoints import LAST, load_last, restore
from trimlab.training.module import DomainLM

FULL_DEPTH = "full_depth"  # folder of the fine-tuning, and of its model for the baselines


@dataclass(frozen=True)
class Comparison:
    """Makes and measures the models that a run is compared with.

    Attributes:
        module: The module of the run; others are made from its arguments.
        data: The domain.
        folder: The run folder.
        tester: Tests the models.
        make_trainer: Makes a trainer for a fit.
        tracker: Logs the fits.
        planned_epochs: Epochs under the learning-rate schedule of the trimmed model.
        dense: Sizes of the untrimmed model.
    """

    module: DomainLM
    data: DomainData
    folder: RunFolder
    tester: Tester
    make_trainer: MakeTrainer
    tracker: Tracker
    planned_epochs: int
    dense: StoredSizes

    def fine_tuned(self) -> ModelResult:
        """The same rows, sparse update and number of epochs, and no drop."""
        module = self.module.fresh()
        last = load_last(self.folder.checkpoints)
        if last is None:
            raise InputError(f"{self.folder.checkpoints} is gone, which says what was trained")
        _, state = last
        module.freeze_all_but(Sublayer.parse(name) for name in state["trimlab"]["trainable"])
        trained = self._train_as_long(module, FULL_DEPTH)
        return self._tested_at_full_depth(module, trained, keep=bool(self.tester.options.compare))

    def fine_tuned_first(self, epochs: int) -> ModelResult:
        """Fine-tunes all sublayers of the untrimmed model, and keeps it as the start of trimming.

        Args:
            epochs: Number of epochs, which the learning-rate schedule is laid over.
        """
        module = self.module.fresh()
        module.freeze_all_but(module.stack)
        trained = self._train(module, FULL_DEPTH, epochs, planned_epochs=epochs)
        return self._tested_at_full_depth(module, trained, keep=True)

    @property
    def fine_tuned_folder(self) -> Path:
        """Folder of the model fine-tuned at full depth, where it is kept."""
        return self.folder.models / FULL_DEPTH

    def compared(self, method: str, summary: RunSummary) -> list[ModelResult]:
        """Applies a baseline to one of the run's models, and measures the written result.

        Args:
            method: Name of the baseline.
            summary: The summary so far, with the trimmed models.

        Returns:
            One result; none where the only model is an ablation, which is not exported.
        """
        baseline = baseline_class(method)()
        if baseline.before_training:
            return [self._pruned_and_trained(method, baseline)]
        return ranks.on_first(lambda: self._compressed(method, baseline, summary))

    # ---- inside -------------------------------------------------------------------------------

    def _compressed(
        self, method: str, baseline: Baseline, summary: RunSummary
    ) -> list[ModelResult]:
        """Compresses the weights of a trained model, and measures the written result."""
        of, source, model = "fine_tuned", str(self.fine_tuned_folder), summary.fine_tuned
        if model is None:
            of, source, model = "trimmed", summary.trimmed.folder, summary.trimmed
        if source is None:
            return []
        folder = self.folder.models / f"{method}-{of}"
        dead = dead_sublayers(Path(source)) if model.tier == "T2" else []
        written = self._write(baseline, source, folder, dead=dead)
        test = self.tester.test(SublayerStack(baseline.load(folder)), f"{method}, {of}")
        return [
            ModelResult.from_test(
                test,
                of=of,
                asked_ratio=model.asked_ratio,
                dropped=model.dropped if of == "trimmed" else None,
                optimizer_steps=model.optimizer_steps,
                folder=str(folder),
                **written,
            )
        ]

    def remove_checkpoints(self, name: str) -> None:
        """Removes the checkpoints of a fit whose result is in the summary.

        Args:
            name: Folder of the fit in the run folder.
        """
        folder = self.folder.path / name / CHECKPOINTS
        ranks.on_first(lambda: shutil.rmtree(folder, ignore_errors=True))

    # ---- inside -------------------------------------------------------------------------------

    def _tested_at_full_depth(
        self, module: DomainLM, trained: JsonObject, *, keep: bool
    ) -> ModelResult:
        """Tests the model fine-tuned at full depth; its folder is kept if somebody needs it."""

        def test() -> TestResult:
            whole = self._whole(module, FULL_DEPTH)
            if keep:
                _save(whole, self.fine_tuned_folder)
            return self.tester.test(whole.stack, "fine-tuned at full depth")

        return ModelResult.from_test(ranks.on_first(test), dropped=[], **trained)

    def _pruned_and_trained(self, method: str, baseline: Baseline) -> ModelResult:
        """Prunes the untrimmed model and trains every remaining sublayer."""
        folder = self.folder.models / method
        pruned = folder.with_name(f"{method}-untrained")
        # not again after a kill: a checkpoint belongs to the weights that its training began with
        written = ranks.on_first(lambda: self._write(baseline, self.module.base, pruned, keep=True))
        module = self.module.fresh(str(pruned))
        module.freeze_all_but(module.stack)
        trained = self._train_as_long(module, method)
        ranks.on_first(lambda: _save(self._whole(module, method), folder))
        test = ranks.on_first(
            lambda: self.tester.test(SublayerStack(baseline.load(folder)), method)
        )
        about = {**trained, **written, "folder": str(folder)}
        return ModelResult.from_test(test, of="untrimmed", dropped=[], **about)

    def _write(
        self,
        baseline: Baseline,
        source: str,
        folder: Path,
        *,
        keep: bool = False,
        dead: Sequence[str] = (),
    ) -> JsonObject:
        """Lets a baseline write its model, unless there is one to keep; its sizes."""
        if keep and folder.exists():
            stored = baseline.stored(folder, dead)
        else:
            texts = calibration_tokens(self.data.train_items()[:CALIBRATION_TEXTS])
            tokenizer = self.module.tokenizer
            stored = write_compressed(baseline, source, texts, folder, tokenizer, dead=dead)
        return {
            "title": baseline.title,
            "layer_memory_ratio": (stored.layers - stored.dead) / self.dense.layers,
            "model_memory_ratio": (stored.model - stored.dead) / self.dense.model,
            "stored_layer_memory_ratio": stored.layers / self.dense.layers,
            "stored_model_memory_ratio": stored.model / self.dense.model,
            "zeros": stored.zeros,
        }

    def _train_as_long(self, module: DomainLM, name: str) -> JsonObject:
        """Trains a model for as many epochs as the trimmed one, with the same schedule."""
        final = [point for point in self.folder.points() if point.accepted][-1]
        return self._train(module, name, final.epoch + 1, self.planned_epochs)

    def _train(self, module: DomainLM, name: str, epochs: int, planned_epochs: int) -> JsonObject:
        """Trains a model; optimizer steps, epochs and time.

        Args:
            module: The model.
            name: Folder of the fit in the run folder.
            epochs: Number of epochs.
            planned_epochs: Epochs that the learning-rate schedule is laid over.
        """
        module.planned_epochs = planned_epochs
        module.metric = self.data.task.metric
        folder = self.folder.path / name
        last = load_last(folder / CHECKPOINTS)
        resumed, start = ranks.agreed(folder.exists()), time.perf_counter()
        steps = fit(
            self.make_trainer,
            module,
            self.data,
            folder,
            callbacks=[TrackFit(self.tracker, prefix=f"{name}/")] if ranks.is_first() else [],
            resume=None if last is None else last[0],
            max_epochs=epochs,
            limit_val_batches=0,  # its dev score decides nothing
        )
        seconds = None if resumed else time.perf_counter() - start
        return {"optimizer_steps": steps, "epochs": epochs, "fit_seconds": seconds}

    def _whole(self, module: DomainLM, name: str) -> DomainLM:
        """The trained model of a fit, of which a process may have a part only."""
        if not module.sharded:
            return module
        whole = module.fresh()
        restore(whole, self.folder.path / name / CHECKPOINTS / LAST)
        return whole


def _save(module: DomainLM, folder: Path) -> None:
    with atomic_folder(folder) as part:
        module.model.save_pretrained(part)
        module.tokenizer.save_pretrained(part)

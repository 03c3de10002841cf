"""One run, from the base model to `summary.json`: measure, trim, export, compare.

Every phase writes its result to the run folder before the next one starts, so that a killed run
goes on where it was. Of several processes all fit, and the first one measures, exports and writes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from trimlab import ranks
from trimlab.algorithm import Trim
from trimlab.baseline import baseline_class
from trimlab.data.domain import DomainData
from trimlab.data.splits import RowSets
from trimlab.errors import InputError
from trimlab.export._card import model_card
from trimlab.files import write_text
from trimlab.memory import release_memory
from trimlab.model.sizes import dense_sizes
from trimlab.records.model_result import ModelResult
from trimlab.records.provenance import provenance
from trimlab.records.result_row import RunContext
from trimlab.records.rows import JsonObject, rewind
from trimlab.records.run_summary import RunSummary
from trimlab.runs.checks import check_outputs
from trimlab.runs.compare import FULL_DEPTH, Comparison
from trimlab.runs.exports import Exporter, saved_points
from trimlab.runs.fitting import MakeTrainer, fit, join, placed
from trimlab.runs.folder import RunFolder
from trimlab.runs.measure import Tester, heuristic_baselines
from trimlab.runs.options import RunOptions
from trimlab.runs.page.write import RefreshPage, RunPage
from trimlab.runs.run_id import run_id
from trimlab.runs.tracking import Tracker, TrackFit
from trimlab.training.checkpoints import load_last
from trimlab.training.losses import check_teacher, load_loss
from trimlab.training.module import DomainLM, TrainingDivergedError


class Run:
    """The phases of one run, and the folder that they fill.

    Args:
        module: A fresh `DomainLM`.
        data: The domain.
        trim: Algorithm 1.
        options: Everything around it.
        config: The resolved config, kept in `config.yaml`.
        make_trainer: Called with `default_root_dir`, `callbacks`, `logger`, `plugins` and
            `max_epochs`.
        tracker: Logs to Weights & Biases.
    """

    def __init__(
        self,
        module: DomainLM,
        data: DomainData,
        trim: Trim,
        options: RunOptions,
        config: JsonObject,
        make_trainer: MakeTrainer,
        tracker: Tracker,
    ):
        self.module, self.data, self.trim, self.options = module, data, trim, options
        self.config, self.make_trainer, self.tracker = config, make_trainer, tracker
        self.folder = RunFolder(options.dir)
        self.page = RunPage(self.folder, data, module.stack)
        # measurements outside of a fit run on the device of the fits
        self.trainer = make_trainer(callbacks=[], logger=False)
        module.check(self.trainer)
        join(self.trainer)
        dense = dense_sizes(module.stack)
        # to the type of the fits: a GPU may have no room for float32 weights
        self.trainer.precision_plugin.convert_module(module)
        self.tester = Tester(
            data=data,
            options=options,
            base=module.base,
            fingerprint=module.fingerprint,
            device=self.trainer.strategy.root_device,
            dtype=module.model.dtype,
            progress=trim.progress,
            folder=self.folder.path,
        )
        self.comparison = Comparison(
            module=module,
            data=data,
            folder=self.folder,
            tester=self.tester,
            make_trainer=make_trainer,
            tracker=tracker,
            planned_epochs=trim.planned_epochs(module.stack),
            dense=dense,
        )

    def __call__(self) -> RunSummary:
        """Does whatever is not done yet.

        Returns:
            The summary, as in `summary.json`.

        Raises:
            InputError: The folder holds a run with another config, is in use or cannot be
                written, or the disk has too little room.
        """
        ranks.on_first(self.data.setup)  # the others find downloads in the cache
        self.data.setup()
        self.module.metric = self.data.task.metric
        self.module.model.to(self.tester.device)  # type: ignore[arg-type]  # a latency is measured
        self.trim.check(self.trainer, self.module.stack)
        for method in self.options.compare:
            baseline_class(method)().check(self.module.stack)
        check_teacher(loss := self.module.hparams["loss"], self.options.trim_from)
        self.data.train_items(load_loss(loss).all_choices)
        ranks.on_first(self.folder.make)
        with self._in_first(lambda: self.folder.claimed(self.config)):
            self.summary = ranks.agreed(self._begin())
            if not self.summary.finished:
                ranks.on_first(self._check_outputs)
                where, summary = self.folder.path, self.summary
                with self._in_first(lambda: self.tracker.tracked(where, self.config, summary)):
                    self._phases()
            elif not self.page.path.exists():  # a run of an earlier version
                ranks.on_first(lambda: self.page.write(self.summary))
            return self.summary

    @staticmethod
    @contextmanager
    def _in_first(make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """Enters a context in the first process."""
        with ExitStack() as held:

            def enter() -> None:
                held.enter_context(make())

            ranks.on_first(enter)
            yield

    def _phases(self) -> None:
        self._phase("heuristic_baselines", self._heuristic_baselines)
        self._phase("untrimmed", lambda: ranks.on_first(self._untrimmed))
        if self.options.trim_from == "fine_tuned":
            epochs = self.options.fine_tuning_epochs
            self._phase("fine_tuned", lambda: self.comparison.fine_tuned_first(epochs))
            self.comparison.remove_checkpoints(FULL_DEPTH)
            self.module.start_from(self.comparison.fine_tuned_folder)
        self._trim()
        self._phase("stopped_because", lambda: self.folder.points()[-1].finished)
        self._phase("models", lambda: ranks.on_first(self._models))
        self._write_cards()
        if self.options.full_depth:
            self._phase("fine_tuned", self.comparison.fine_tuned)
            self.comparison.remove_checkpoints(FULL_DEPTH)
            self._write_cards()  # they compare with it
        for method in self.options.compare:
            self._compare(method)
        self.summary.finished = True
        self._write_summary()

    def _check_outputs(self) -> None:
        config = placed(self.config, self.trainer)
        check_outputs(self.module, self.trim, self.options, self.folder, self.summary, config)

    # ---- phases -------------------------------------------------------------------------------

    def _begin(self) -> RunSummary:
        """The summary so far.

        Raises:
            InputError: The rows are not those that the run was started with.
        """
        row_sets = self._rows.fingerprints()
        origin: JsonObject = {
            "config_hash": run_id(self.config),
            "seed": self.data.seed,
            "base": self.module.base,
            "task": self.data.task.name,
            "prompt": self.data.prompt,
            "row_sets": row_sets,
            **provenance(),
        }
        if (n := ranks.world_size()) > 1:  # times depend on it
            origin["hardware"]["processes"] = n
        self.trim.provenance = origin
        summary = self.folder.read_summary()
        if summary is None:
            counts: JsonObject = {
                "rows": self._rows.counts(),
                "rows_read": self._rows.read,
                "rows_official": dict(self.data.task.official),
                "rows_dropped_as_shared": self._rows.dropped,
            }
            return RunSummary(
                context=RunContext.from_row(origin | counts),
                seed=self.data.seed,
                metric=self.data.task.metric,
                data_root=None if self.data.source.root is None else str(self.data.source.root),
                data_options=self.data.source.options(),
                test_rows=self.data.test_rows,
                data=self.data.report().to_row(),
            )
        if summary.context.row_sets != row_sets:
            raise InputError(
                f"the rows have changed since {self.folder.path} was started; "
                "choose another --run.dir"
            )
        return summary

    def _heuristic_baselines(self) -> dict[str, float]:
        """Accuracy without a model: no test result means much without it."""
        return heuristic_baselines(self._rows, self.data.task.metric)

    def _untrimmed(self) -> ModelResult:
        return ModelResult.from_test(self.tester.untrimmed(self.module.stack), dropped=[])

    def _trim(self) -> None:
        """Algorithm 1. A run that diverges still exports its last good operating point."""
        if self.summary.stopped_because is None:
            self.summary.models = None  # exported by a run that diverged: not the end
        try:
            self._fit_trimmed()
        except TrainingDivergedError:
            if self.folder.points():
                self._phase("models", lambda: ranks.on_first(self._models))
                self._write_cards()
            raise

    def _fit_trimmed(self) -> None:
        """Trains and trims, unless the last checkpoint says that this has ended."""
        last = load_last(self.folder.checkpoints)
        if last is not None:
            state = self._state_of_trim(*last)
            if state["finished"] is not None:
                record, points = self.folder.record, state["points"]
                ranks.on_first(lambda: rewind(record, points))  # whatever has become of it since
                return
        start = time.perf_counter()
        callbacks: list[Callback] = [self.trim]
        if ranks.is_first():
            callbacks += [TrackFit(self.tracker, self.trim), RefreshPage(self.page, self.summary)]
        path = self.folder.path
        resume = None if last is None else last[0]
        fit(
            self.make_trainer, self.module, self.data, path, callbacks, resume=resume, max_epochs=-1
        )
        self.summary.fit_seconds = None if resume else time.perf_counter() - start
        if self.trim.finished is None:
            raise InputError("training ended before the stop rule; see trainer.max_steps, max_time")

    def _state_of_trim(self, last: Path, checkpoint: JsonObject) -> JsonObject:
        """The state of Algorithm 1 in a checkpoint.

        Raises:
            InputError: The checkpoint is another run's.
        """
        state = checkpoint["callbacks"].get("Trim")
        ours = self.trim.provenance["config_hash"]
        if state is None or any(point["config_hash"] != ours for point in state["points"]):
            raise InputError(
                f"{last} is no checkpoint of this run; remove {last.parent} to start over"
            )
        return state

    def _models(self) -> list[ModelResult]:
        """Exports every operating point that was asked for, and the final one last."""
        exporter = Exporter(self.module, self.folder, self.tester)
        return [exporter.export(saved) for saved in saved_points(self.folder, self.trim.save_at)]

    def _write_cards(self) -> None:
        """The model cards, which say so where a model is worse than those that it came from."""
        ranks.on_first(self._cards)

    def _cards(self) -> None:
        results, base = self.summary, self.module.base
        assert results.untrimmed is not None
        for model in results.models or []:
            if model.folder is not None:
                card = model_card(base, self.data, model, results.untrimmed, results.fine_tuned)
                write_text(Path(model.folder) / "README.md", card)

    def _compare(self, method: str) -> None:
        if method not in self.summary.compared:
            start = time.perf_counter()
            self.summary.compared[method] = self.comparison.compared(method, self.summary)
            self._end_of_phase(method, start)
        self.comparison.remove_checkpoints(method)

    # ---- inside -------------------------------------------------------------------------------

    @property
    def _rows(self) -> RowSets:
        assert self.data.rows is not None
        return self.data.rows

    def _phase(self, name: str, work: Callable[[], Any]) -> None:
        """Fills a field of the summary, unless it is filled."""
        if getattr(self.summary, name) is None:
            start = time.perf_counter()
            setattr(self.summary, name, work())
            self._end_of_phase(name, start)

    def _end_of_phase(self, name: str, start: float) -> None:
        release_memory()  # modules, gradients and moments of a fit refer to each other
        self.summary.phase_seconds[name] = time.perf_counter() - start
        self._write_summary()

    def _write_summary(self) -> None:
        ranks.on_first(self._write)

    def _write(self) -> None:
        self.folder.write_summary(self.summary)
        self.page.write(self.summary)

"""Weights & Biases: a mirror of a run's record, to watch and to compare runs.

W&B is an optional dependency (`pip install 'trimlab[wandb]'`) and is imported on use. The run never
fails because of it: its first error becomes a warning, and nothing more is logged.
"""

import hashlib
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import lightning as L

from trimlab.algorithm import Trim
from trimlab.model.sublayers import Sublayer
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.rows import JsonObject
from trimlab.records.run_summary import RunSummary
from trimlab.runs.dropping import dropping_pattern, score_table
from trimlab.runs.run_id import run_id
from trimlab.training.module import DomainLM

# longest wait for the network at the start of a run, at its end, and there with a model to upload
INIT_SECONDS, FINISH_SECONDS, UPLOAD_SECONDS = 30, 60, 3600

POINT_FIELDS = (
    *("step", "dev", "dev_stderr", "layer_memory_ratio", "model_memory_ratio", "layer_bytes"),
    *("seconds", "scan_seconds"),
)


@dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases. It does not change the result, and a run never fails because of it.

    Attributes:
        mode: `auto` logs where W&B is installed: online where you are logged in, otherwise to
            `wandb/` in the run folder, for `wandb sync` (WANDB_MODE in the environment decides
            first). Rows of the data and code are never uploaded; notes on the
            data are, which may quote a label or a file name.
        project: W&B project.
        group: Group of runs to compare; by default the task's name.
        name: Name of the run; by default the name of its folder.
        artifact: Also upload the final exported model.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "trimlab"
    group: str | None = None
    name: str | None = None
    artifact: bool = False


class Tracker:
    """A W&B run that cannot fail.

    Args:
        options: Where and how it logs.
    """

    def __init__(self, options: WandbOptions):
        self.options = options
        self._run: Any = None

    @contextmanager
    def tracked(self, folder: Path, config: JsonObject, summary: RunSummary) -> Iterator[None]:
        """Keeps a W&B run open; a resumed run goes on with the same one.

        Args:
            folder: The run folder.
            config: The resolved config.
            summary: The summary, which is filled inside of the `with` block.
        """
        mode = self._mode()
        if mode == "disabled":
            yield
            return
        self._start(mode, folder, config, summary)
        try:
            yield
        except BaseException:
            self._safely(lambda run: run.finish(exit_code=1), "")
            raise
        self._safely(lambda run: self._finish(run, folder, summary), "")

    def log(self, row: JsonObject) -> None:
        """Logs numbers; `optimizer_steps` among them is the x axis."""
        self._safely(lambda run: run.log(row))

    def log_point(self, points: Sequence[OperatingPoint], sublayers: Sequence[Sublayer]) -> None:
        """Logs the last operating point, and the scores and dropping pattern up to it.

        Args:
            points: The operating points so far.
            sublayers: The sublayers of the model at the start.
        """
        self._safely(lambda run: run.log(_logged_point(points, sublayers)))

    # ---- inside -------------------------------------------------------------------------------

    def _mode(self) -> str:
        mode = self.options.mode
        if mode != "auto":
            return mode
        asked = os.environ.get("WANDB_MODE")
        if asked == "disabled" or find_spec("wandb") is None:
            return "disabled"
        return asked or "auto"

    def _start(self, mode: str, folder: Path, config: JsonObject, summary: RunSummary) -> None:
        try:
            import wandb

            if mode == "auto":
                mode = "online" if _logged_in() else "offline"
        except Exception as error:
            _warn(error)
            return
        # with the folder: two runs of one config are two W&B runs
        identity = f"{run_id(config)} {folder.resolve()}"
        wait = UPLOAD_SECONDS if self.options.artifact else FINISH_SECONDS
        origin = {"seed": summary.seed, **summary.context.to_row()}
        failed: Exception | None = None
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                self._run = wandb.init(
                    mode=attempt,  # type: ignore[arg-type]
                    id=hashlib.sha256(identity.encode()).hexdigest()[:16],
                    resume="allow",
                    dir=folder,
                    name=self.options.name or folder.name,
                    project=self.options.project,
                    group=self.options.group or summary.context.task,
                    config={**config, "provenance": origin},
                    settings=wandb.Settings(
                        silent=True,
                        console="off",
                        save_code=False,
                        disable_git=True,  # the record knows the commit
                        x_disable_stats=True,
                        init_timeout=INIT_SECONDS,
                        finish_timeout=wait,
                        finish_timeout_raises=True,
                    ),
                )
            except Exception as error:
                failed = error
                _end_service()
            else:
                if failed is not None:
                    _warn(failed, f"; logging offline instead{self._how_to_upload()}")
                self._safely(lambda run: run.define_metric("*", step_metric="optimizer_steps"))
                return
        if failed is not None:
            _warn(failed)

    def _how_to_upload(self) -> str:
        """The command that uploads what is on disk of this run."""
        try:
            return (
                f"; to upload it later: wandb sync {shlex.quote(str(Path(self._run.dir).parent))}"
            )
        except Exception:
            return ""

    def _finish(self, run: Any, folder: Path, summary: RunSummary) -> None:
        import wandb

        models = summary.named_models()
        run.summary.update({f"test/{name}": model.to_summary() for name, model in models})
        run.summary["stopped_because"] = summary.stopped_because
        columns: list[Any] = ["model", "layer memory", summary.metric, "stderr", "n"]
        data: list[Any] = [
            [name, model.layer_memory_ratio, model.value, model.stderr, model.n]
            for name, model in models
        ]
        run.log({"test": wandb.Table(columns=columns, data=data)})
        for name in ("config.yaml", "record.jsonl", "summary.json"):
            run.save(str(folder / name), base_path=str(folder), policy="now")
        final = summary.trimmed
        if self.options.artifact and final.folder is not None:
            name = re.sub(r"[^\w.-]", "-", f"{folder.name}-{Path(final.folder).name}")
            artifact = wandb.Artifact(name, type="model", metadata=final.to_summary())
            artifact.add_dir(final.folder)
            run.log_artifact(artifact)
        run.finish()

    def _safely(self, work: Callable[[Any], Any], then: str = "; nothing more is logged") -> None:
        if self._run is None:
            return
        try:
            work(self._run)
        except Exception as error:
            _warn(error, then + self._how_to_upload())
            self._run = None


class TrackFit(L.Callback):
    """Logs one fit: the loss of every step, the dev score of every epoch, operating points.

    Args:
        tracker: Where it logs.
        trim: Algorithm 1, in the fit that trims; its callback comes before this one.
        prefix: Prefix of the names.
    """

    def __init__(self, tracker: Tracker, trim: Trim | None = None, prefix: str = ""):
        self.tracker, self.trim, self.prefix = tracker, trim, prefix
        self._logged = self._steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Passes over the operating points of a checkpoint, which are logged already."""
        self._logged = len(self.trim.points) if self.trim else 0
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Logs the loss of a step that was not skipped."""
        if outputs and trainer.global_step > self._steps:  # gradients may be accumulated
            self._steps = trainer.global_step
            self._log(trainer, {"train_loss": float(trainer.callback_metrics["train_loss"])})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the dev score before a drop and, where there is a new one, the operating point."""
        assert isinstance(pl_module, DomainLM)
        if pl_module.dev.n:
            self._log(trainer, {f"dev_{pl_module.metric}": pl_module.dev.value})
        if self.trim and len(self.trim.points) > self._logged:
            self._logged = len(self.trim.points)
            self.tracker.log_point(self.trim.points, pl_module.stack.original)

    def _log(self, trainer: L.Trainer, row: JsonObject) -> None:
        named = {f"{self.prefix}{name}": value for name, value in row.items()}
        self.tracker.log(named | {"optimizer_steps": trainer.global_step})


def _logged_point(points: Sequence[OperatingPoint], sublayers: Sequence[Sublayer]) -> JsonObject:
    """The row that W&B logs at an operating point."""
    import wandb

    point = points[-1]
    left = set(map(str, sublayers)) - set(point.history)
    row: JsonObject = {f"point/{name}": getattr(point, name) for name in POINT_FIELDS}
    row["point/layers_left"] = len(left)
    for kind in ("attention", "mlp"):
        row[f"point/{kind}_left"] = sum(name.endswith(kind) for name in left)
    row["dropping_pattern"] = wandb.Table(
        columns=["scan", *map(str, sublayers)], data=dropping_pattern(points, sublayers)
    )
    row["scores"] = wandb.Table(
        columns=["scan", "candidate", "score", "accuracy", "norm", "items", "dropped"],
        data=score_table(points),
    )
    row["optimizer_steps"] = point.optimizer_steps
    return row


def _logged_in() -> bool:
    """Whether there are credentials for W&B; asks neither the person nor the network."""
    import wandb

    return wandb.login(prompt=False, verify=False)


def _end_service() -> None:
    """Ends W&B's own process, which keeps the id of a run that could not be started in use."""
    import wandb

    if wandb.run is None:  # otherwise it serves a run that was started elsewhere
        with suppress(Exception):
            wandb.teardown()


def _warn(error: Exception, then: str = "; the run goes on without it") -> None:
    line = " ".join(str(error).split())
    warnings.warn(f"Weights & Biases: {type(error).__name__}: {line}{then}", stacklevel=2)

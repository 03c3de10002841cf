"""Weights & Biases: what a person wants to watch of a run. It mirrors the record, nothing more.

W&B is an optional dependency (`pip install 'trimlab[wandb]'`) and is imported on use. Whatever it
does, the run goes on: its first error is a warning, and then it is left alone.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import lightning as L

from trimlab.algorithm import Trim
from trimlab.model.sublayers import Sublayer
from trimlab.records.identity import config_hash
from trimlab.records.rows import Row
from trimlab.training.module import DomainLM

DROPPED = -1.0  # in the dropping pattern, as in Figure 3


FINISH_SECONDS, UPLOAD_SECONDS = 60, 3600  # how long the end of a run may wait for the network


@dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases. Nothing of it changes the result, and it never makes a run fail.

    Attributes:
        mode: `auto` logs where W&B is installed: online where you are logged in, otherwise to
            `wandb/` in the run folder, for `wandb sync` (WANDB_MODE in the environment decides
            first). Never uploaded: rows of the data, code.
        project: W&B project.
        group: Runs of one group are compared; by default the task's name.
        name: Name of the run; by default that of its folder.
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
        options: Where and how to log.
    """

    def __init__(self, options: WandbOptions):
        self.options = options
        self._run: Any = None

    @contextmanager
    def tracked(self, folder: Path, config: Row, about: Row, summary: Row) -> Iterator[None]:
        """Keeps a W&B run open; a resumed run goes on with the same one.

        Args:
            folder: The run folder.
            config: The resolved config.
            about: Provenance of the run: seed, base model, task, versions.
            summary: What `summary.json` holds at the end; filled meanwhile.
        """
        mode = self._mode()
        if mode == "disabled":
            yield
            return
        self._start(mode, folder, config, about)
        try:
            yield
        except BaseException:
            self._safely(lambda run: run.finish(exit_code=1))
            raise
        self._safely(lambda run: self._finish(run, folder, summary))

    def log(self, row: Row) -> None:
        """Logs numbers; `optimizer_steps` among them is the axis they are drawn over."""
        self._safely(lambda run: run.log(row))

    def log_point(self, points: Sequence[Row], sublayers: Sequence[Sublayer]) -> None:
        """Logs the last operating point, and the scores and dropping pattern up to it.

        Args:
            points: The record's rows so far.
            sublayers: The sublayers that the model had at the start.
        """

        def work(run: Any) -> None:
            import wandb

            left = set(map(str, sublayers)) - set(points[-1]["history"])
            row = {
                name: points[-1][name]
                for name in ("step", "dev", "dev_stderr", "layer_memory_ratio")
                + ("model_memory_ratio", "layer_bytes", "seconds", "scan_seconds")
            }
            row["layers_left"] = len(left)
            for kind in ("attention", "mlp"):
                row[f"{kind}_left"] = sum(name.endswith(kind) for name in left)
            tables = {
                "dropping_pattern": wandb.Table(
                    columns=["scan", *map(str, sublayers)], data=dropping_pattern(points, sublayers)
                ),
                "scores": wandb.Table(
                    columns=["scan", "candidate", "score", "accuracy", "norm", "items", "dropped"],
                    data=score_table(points),
                ),
            }
            steps = {"optimizer_steps": points[-1]["optimizer_steps"]}
            run.log({f"point/{k}": v for k, v in row.items()} | tables | steps)

        self._safely(work)

    # ---- inside -------------------------------------------------------------------------------

    def _mode(self) -> str:
        mode = self.options.mode
        if mode != "auto":
            return mode
        asked = os.environ.get("WANDB_MODE")
        if asked == "disabled" or find_spec("wandb") is None:
            return "disabled"
        return asked or "auto"

    def _start(self, mode: str, folder: Path, config: Row, about: Row) -> None:
        try:
            import wandb

            if mode == "auto":
                mode = "online" if wandb.api.api_key else "offline"
        except Exception as error:
            _warn(error)
            return
        # the folder too: two runs of one config are two runs
        identity = f"{config_hash(config)} {folder.resolve()}"
        wait = UPLOAD_SECONDS if self.options.artifact else FINISH_SECONDS
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                self._run = wandb.init(
                    mode=attempt,  # type: ignore[arg-type]
                    id=hashlib.sha256(identity.encode()).hexdigest()[:16],
                    resume="allow",
                    dir=folder,
                    name=self.options.name or folder.name,
                    project=self.options.project,
                    group=self.options.group or about["task"],
                    config={**config, "provenance": about},
                    settings=wandb.Settings(
                        silent=True,
                        console="off",
                        save_code=False,
                        disable_git=True,  # the record knows the commit
                        x_disable_stats=True,
                        init_timeout=30,
                        finish_timeout=wait,
                    ),
                )
            except Exception as error:
                _warn(error, "" if attempt == "offline" else "; logging offline instead")
                continue
            self._safely(lambda run: run.define_metric("*", step_metric="optimizer_steps"))
            return

    def _finish(self, run: Any, folder: Path, summary: Row) -> None:
        import wandb

        final = summary["trimmed"]
        run.summary.update({f"test/{name}": row for name, row in _models(summary)})
        run.summary["stopped_because"] = summary["stopped_because"]
        run.log(
            {
                "test": wandb.Table(
                    columns=["model", "layer memory", summary["metric"], "stderr", "n"],
                    data=[
                        [name, row.get("layer_memory_ratio", 1.0), row[summary["metric"]]]
                        + [row["stderr"], row["n"]]
                        for name, row in _models(summary)
                    ],
                )
            }
        )
        for name in ("config.yaml", "record.jsonl", "summary.json"):
            run.save(str(folder / name), base_path=str(folder), policy="now")
        if self.options.artifact and "folder" in final:
            name = re.sub(r"[^\w.-]", "-", f"{folder.name}-{Path(final['folder']).name}")
            artifact = wandb.Artifact(name, type="model", metadata=final)
            artifact.add_dir(final["folder"])
            run.log_artifact(artifact)
        run.finish()

    def _safely(self, work: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            work(self._run)
        except Exception as error:
            self._run = None
            _warn(error)


class TrackFit(L.Callback):
    """Logs one fit: the loss of every step, the dev score of every epoch, operating points.

    Args:
        tracker: Where to.
        trim: Algorithm 1, if it is what is fitted; its callback comes before this one.
        prefix: In front of the names.
    """

    def __init__(self, tracker: Tracker, trim: Trim | None = None, prefix: str = ""):
        self.tracker, self.trim, self.prefix = tracker, trim, prefix
        self._logged = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The operating points of a checkpoint have been logged by the process that made them."""
        self._logged = len(self.trim.points) if self.trim else 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The loss of a step that was not skipped."""
        if outputs:  # its own loss is divided by accumulate_grad_batches
            self._log(trainer, {"train_loss": float(trainer.callback_metrics["train_loss"])})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The dev score before a drop and, where there is one, the operating point."""
        assert isinstance(pl_module, DomainLM)
        if pl_module.dev.n:
            self._log(trainer, {f"dev_{pl_module.metric}": pl_module.dev.value})
        if self.trim and len(self.trim.points) > self._logged:
            self._logged = len(self.trim.points)
            self.tracker.log_point(self.trim.points.rows(), pl_module.stack.original)

    def _log(self, trainer: L.Trainer, row: Row) -> None:
        named = {f"{self.prefix}{name}": value for name, value in row.items()}
        self.tracker.log(named | {"optimizer_steps": trainer.global_step})


def dropping_pattern(points: Sequence[Row], sublayers: Sequence[Sublayer]) -> list[Any]:
    """Figure 3: a row per scan, a column per sublayer; its lowest score, -1 once it is dropped.

    Args:
        points: Operating points.
        sublayers: The sublayers that the model had at the start.

    Returns:
        The number of the scan, then one score per sublayer; None where it was in no candidate.
    """
    rows = []
    for point in points:
        scores: dict[str, float] = {}
        for entry in point["scan"]:
            for name in entry["candidate"].split("+"):
                score = entry["score"][0]
                scores[name] = min(score, scores.get(name, score))
        gone = set(point["history"]) - set(point["dropped"])
        names = map(str, sublayers)
        rows.append([point["step"], *(DROPPED if n in gone else scores.get(n) for n in names)])
    return rows


def score_table(points: Sequence[Row]) -> list[Any]:
    """A row per scan and candidate, with its score and whether it was dropped.

    `items` says how many it has met, in a scan that stops at the choice: with fewer than others,
    the score is a lower bound and the accuracy an upper one.
    """
    return [
        [point["step"], entry["candidate"], entry["score"][0]]
        + [entry.get(name) for name in ("accuracy", "norm", "items")]
        + [set(entry["candidate"].split("+")) <= set(point["dropped"])]
        for point in points
        for entry in point["scan"]
    ]


def _models(summary: Row) -> list[tuple[str, Row]]:
    named = [(name, summary[name]) for name in ("untrimmed", "fine_tuned") if name in summary]
    return named + [("trimmed", row) for row in summary["models"]]


def _warn(error: Exception, then: str = "; the run goes on without it") -> None:
    line = " ".join(str(error).split())
    warnings.warn(f"Weights & Biases: {type(error).__name__}: {line}{then}", stacklevel=2)

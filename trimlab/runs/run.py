"""One run, from the base model to `summary.json`: measure, trim, compare, export, report.

Every phase leaves its result in the run folder before the next one starts, so that a killed
run goes on where it was.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimlab.algorithm import Trim
from trimlab.baseline import (
    CALIBRATION_TEXTS,
    Baseline,
    baseline_class,
    calibration_tokens,
    write_compressed,
)
from trimlab.data.domain import DomainData
from trimlab.data.heuristic_baselines import majority_accuracy, word_overlap_accuracy
from trimlab.data.items import Item
from trimlab.data.splits import read_test_items
from trimlab.data.task import Task, load_task
from trimlab.errors import InputError
from trimlab.evaluation.answers import Answers, answer, normalised_score
from trimlab.evaluation.generation import exact_match
from trimlab.evaluation.metrics import stability
from trimlab.evaluation.speed import decode_speeds
from trimlab.export._card import model_card
from trimlab.export.hf import load_export, save_packed
from trimlab.files import write_text
from trimlab.model.loading import load_model
from trimlab.model.sizes import dense_sizes, stored_sizes
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.records.identity import config_hash
from trimlab.records.provenance import provenance
from trimlab.records.rows import Row, read_rows
from trimlab.runs.options import RunOptions
from trimlab.runs.tracking import Tracker, TrackFit
from trimlab.training.checkpoints import AtomicCheckpointIO, load_checkpoint, restore
from trimlab.training.module import DomainLM, TrainingDivergedError

# makes a Lightning trainer for a folder, with the settings of the config
MakeTrainer = Callable[..., L.Trainer]


# one device, and none of the chores that a run does itself
TRAINER_DEFAULTS: Row = {
    "devices": 1,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


class Run:
    """A run folder and what fills it.

    Args:
        module: A fresh `DomainLM`.
        data: The domain.
        trim: Algorithm 1.
        options: What is done around it.
        config: The resolved config, kept in `config.yaml`.
        make_trainer: Called with `default_root_dir`, `callbacks`, `logger` and, for the
            comparison at full depth, `max_epochs`.
        tracker: Logs to Weights & Biases.
    """

    def __init__(
        self,
        module: DomainLM,
        data: DomainData,
        trim: Trim,
        options: RunOptions,
        config: Row,
        make_trainer: MakeTrainer,
        tracker: Tracker,
    ):
        self.module, self.data, self.trim, self.options = module, data, trim, options
        self.config, self.make_trainer, self.tracker = config, make_trainer, tracker
        self.folder = Path(options.dir)
        # evaluations outside of a fit run where the fits do
        self.trainer = make_trainer(callbacks=[], logger=False)
        self.device = self.trainer.strategy.root_device
        self.summary_path = self.folder / "summary.json"
        self.summary: Row = {}
        # of the model as it came: training drops its sublayers and may change its precision
        self._plain = dense_sizes(module.stack)
        self._planned_epochs = trim.planned_epochs(module.stack)

    def __call__(self) -> Row:
        """Does whatever is not done yet.

        Returns:
            The summary, as in `summary.json`.

        Raises:
            InputError: The folder holds a run with another config, or is in use.
        """
        self.data.setup()
        self.trim.check(self.trainer, self.module.stack)
        for name in self.options.compare:  # what cannot work is said now
            baseline_class(name)().check(self.module.stack)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        with self._claimed(), self._tracked():
            self.module.metric = self.data.task.metric
            self._phase("shortcuts", self._shortcuts)
            self._phase("untrimmed", self._untrimmed)
            if "stopped_because" not in self.summary:
                self.summary.pop("models", None)  # it diverged: what it kept is not the end
            try:
                self._fit_trimmed()
            except TrainingDivergedError:
                if read_rows(self.folder / "record.jsonl"):
                    self._phase("models", self._models)  # the last good point, as a model
                raise
            self._phase("stopped_because", self._stopped_because)
            self._phase("models", self._models)
            if self.options.full_depth:
                self._phase("fine_tuned", self._fine_tuned)
            for name in self.options.compare:
                self._phase(f"compared_{name}", lambda name=name: self._compared(name))
            self._phase("trimmed", lambda: dict(self.summary["models"][-1]))
            return self.summary

    # ---- phases -------------------------------------------------------------------------------

    def _shortcuts(self) -> Row:
        """What is reached without a model: no test result means much without these."""
        if self.data.task.metric != "accuracy":
            return {}
        rows = self._rows
        return {
            "word_overlap": word_overlap_accuracy(rows.test),
            "majority": majority_accuracy(rows.train, rows.test),
            "n": len(rows.test),
        }

    def _untrimmed(self) -> Row:
        path = self._untrimmed_folder / "untrimmed.json"
        if self.options.shared is not None and path.exists():
            return json.loads(path.read_text())
        row = self._test(self.module.stack, "untrimmed", original=True)
        if self.options.shared is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(row))
        return row

    @property
    def _untrimmed_folder(self) -> Path:
        """Where the untrimmed model's answers are kept: here, or with other runs'."""
        if self.options.shared is None:
            return self.folder
        depends_on = {
            "model": self.module.fingerprint,
            "test": self._rows.fingerprints()["test"],
            "rows": self.data.test_rows,
            "prompt": self.data.prompt,
            "max_length": self.data.max_length,
            "measures": [self.options.further, self.options.generate, *self.options.also_on],
        }
        return self.options.shared / config_hash(depends_on)

    def _fit_trimmed(self) -> None:
        """Algorithm 1, unless its last checkpoint says that it has ended."""
        last = self.folder / "checkpoints" / "last.ckpt"
        if last.exists():
            state = load_checkpoint(last)["callbacks"].get("Trim")
            ours = self.trim.provenance["config_hash"]
            if state is None or any(point["config_hash"] != ours for point in state["points"]):
                raise InputError(
                    f"{last} is no checkpoint of this run; remove {last.parent} to start over"
                )
            if state["finished"] is not None:
                return
        resumed, start = last.exists(), time.perf_counter()
        track = TrackFit(self.tracker, self.trim)
        self._fit(self.module, self.folder, [self.trim, track], max_epochs=-1)
        self.summary["fit_seconds"] = None if resumed else time.perf_counter() - start
        if self.trim.finished is None:
            raise InputError("training ended before the stop rule; see trainer.max_steps, max_time")

    def _stopped_because(self) -> str:
        return read_rows(self.folder / "record.jsonl")[-1]["finished"]

    def _models(self) -> list[Row]:
        """Exports every operating point that was asked for, and measures the reloaded exports.

        The last one is the final model: the last operating point that the stop rule accepted.
        With another bypass than the residual one, models are measured in memory instead.
        """
        record = read_rows(self.folder / "record.jsonl")
        points = [p for p in record if p["accepted"]]
        if not points:
            reason = record[-1]["finished"] if record else "its record.jsonl is empty"
            raise InputError(f"{self.folder} has no operating point: {reason}")
        rows, exported = [], None
        for ratio in self.trim.save_at:
            reached = [p for p in points if p["layer_memory_ratio"] <= ratio + 1e-9]
            if reached:
                exported = reached[0]
                row = self._export(f"{ratio:g}", f"point-{ratio:g}.ckpt", exported)
                rows.append(row | {"asked_ratio": ratio})
        if exported is not points[-1]:
            name = f"{points[-1]['layer_memory_ratio']:.3g}"
            rows.append(self._export(name, "good.ckpt", points[-1]) | {"asked_ratio": None})
        return rows

    def _export(self, name: str, checkpoint: str, point: Row) -> Row:
        folder = self.folder / "models" / name
        module = self.module.fresh()
        restore(module, self.folder / "checkpoints" / checkpoint)
        stack = module.stack
        about: Row = {
            "layer_memory_ratio": stack.layer_memory_ratio,
            "model_memory_ratio": stack.model_memory_ratio,
            "dropped": point["history"],
            "optimizer_steps": point["optimizer_steps"],
        }
        exportable = stack.bypass_rule == "residual"
        if exportable:
            export = save_packed(stack, module.tokenizer, folder)
            about |= {
                "folder": str(folder),
                "tier": export.tier,
                "blocks": export.blocks,
                "bytes_on_disk": export.bytes_on_disk,
                "logit_difference": export.logit_difference,
            }
            stack = SublayerStack(load_export(folder, module.model.dtype))
        del module  # as large as the reloaded one and the full one, which come now
        row = self._test(stack, f"trimmed to {name}") | about
        if self.options.speed:
            full, _ = load_model(self.module.base)
            full.to(self.device)  # type: ignore[arg-type]
            speeds = decode_speeds({"untrimmed": full, "trimmed": stack.model})
            for prefix, speed in (("", speeds["trimmed"]), ("untrimmed_", speeds["untrimmed"])):
                row[f"{prefix}tokens_per_second"] = speed.tokens_per_second
                row[f"{prefix}tokens_per_second_spread"] = speed.spread
        if exportable:
            card = model_card(self.module.base, self.data, row, self.summary["untrimmed"], point)
            write_text(folder / "README.md", card)
        return row

    def _fine_tuned(self) -> Row:
        """The same rows, sparse update and number of epochs, and no drop."""
        module = self.module.fresh()
        state = load_checkpoint(self.folder / "checkpoints" / "last.ckpt")["trimlab"]
        module.freeze_all_but(Sublayer.parse(s) for s in state["trainable"])
        about = self._train_as_long(module, "full_depth")
        if self.options.compare:
            module.model.save_pretrained(self._full_depth)
            module.tokenizer.save_pretrained(self._full_depth)
        row = self._test(module.stack, "fine-tuned at full depth")
        shutil.rmtree(self.folder / "full_depth" / "checkpoints")  # nothing resumes it any more
        return row | {"layer_memory_ratio": 1.0, "model_memory_ratio": 1.0} | about

    def _compared(self, name: str) -> list[Row]:
        """What a baseline makes of this run's models, measured on what it has written."""
        baseline = baseline_class(name)()
        if baseline.before_training:
            return [self._pruned_and_trained(name, baseline)]
        if "fine_tuned" in self.summary:
            of, source, about = "fine_tuned", str(self._full_depth), self.summary["fine_tuned"]
        else:
            about = self.summary["models"][-1]
            if "folder" not in about:  # of an ablation, which is not exported
                return []
            of, source = "trimmed", about["folder"]
        folder = self.folder / "models" / f"{name}-{of}"
        stored = self._write(baseline, source, folder)
        row = self._test(SublayerStack(baseline.load(folder)), f"{name}, {of}") | {"of": of}
        row |= {k: about.get(k) for k in ("asked_ratio", "dropped", "optimizer_steps")}
        return [row | stored | {"folder": str(folder)}]

    def _pruned_and_trained(self, name: str, baseline: Baseline) -> Row:
        """Another structure of the untrimmed model, with every sublayer trained."""
        folder = self.folder / "models" / name
        pruned = folder.with_name(f"{name}-untrained")
        # not again after a kill: a checkpoint belongs to the very weights it was trained from
        stored = self._write(baseline, self.module.base, pruned, keep=True)
        module = self.module.fresh(str(pruned))
        module.freeze_all_but(module.stack)
        about = self._train_as_long(module, name)
        module.model.save_pretrained(folder)
        module.tokenizer.save_pretrained(folder)
        del module
        row = self._test(SublayerStack(baseline.load(folder)), name) | {"of": "untrimmed"}
        shutil.rmtree(self.folder / name / "checkpoints")
        return row | about | stored | {"folder": str(folder)}

    def _write(self, baseline: Baseline, source: str, folder: Path, keep: bool = False) -> Row:
        """Lets a baseline write its model, unless one is there to keep; what it takes in memory."""
        if keep and folder.exists():
            stored = stored_sizes(folder)
        else:
            texts = calibration_tokens(self.data.train_items()[:CALIBRATION_TEXTS])
            stored = write_compressed(baseline, source, texts, folder, self.module.tokenizer)
        return {
            "title": baseline.title,
            "layer_memory_ratio": stored.layers / self._plain.layers,
            "model_memory_ratio": stored.model / self._plain.model,
            "zeros": stored.zeros,
        }

    # ---- inside -------------------------------------------------------------------------------

    @property
    def _full_depth(self) -> Path:
        """Where the fine-tuned model is kept for those that compress it."""
        return self.folder / "models" / "full_depth"

    @property
    def _rows(self) -> Any:
        assert self.data.rows is not None
        return self.data.rows

    def _train_as_long(self, module: DomainLM, name: str) -> Row:
        """Trains another model for as many epochs as the trimmed one, with the same schedule."""
        final = [p for p in read_rows(self.folder / "record.jsonl") if p["accepted"]][-1]
        module.planned_epochs = self._planned_epochs
        module.metric = self.data.task.metric
        folder = self.folder / name
        last = folder / "checkpoints" / "last.ckpt"
        if last.exists():
            load_checkpoint(last)  # Lightning would not say in one line that it is damaged
        # its dev score decides nothing
        track = TrackFit(self.tracker, prefix=f"{name}/")
        epochs = final["epoch"] + 1
        resumed, start = folder.exists(), time.perf_counter()
        steps = self._fit(module, folder, [track], max_epochs=epochs, limit_val_batches=0)
        seconds = None if resumed else time.perf_counter() - start
        return {"optimizer_steps": steps, "epochs": epochs, "fit_seconds": seconds}

    def _fit(self, module: DomainLM, folder: Path, callbacks: list[Callback], **more: Any) -> int:
        """Fits, from the last checkpoint if there is one; returns the optimizer steps in all."""
        checkpoints = folder / "checkpoints"
        last = checkpoints / "last.ckpt"
        saver = ModelCheckpoint(
            dirpath=checkpoints,
            filename="last",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        trainer = self.make_trainer(
            default_root_dir=folder,
            callbacks=[*callbacks, saver],
            logger=CSVLogger(folder, name="logs"),
            plugins=[AtomicCheckpointIO()],
            **more,
        )
        resume = str(last) if last.exists() else None
        trainer.fit(module, datamodule=self.data, ckpt_path=resume, weights_only=True)
        return trainer.global_step

    def _test(self, stack: SublayerStack, name: str, original: bool = False) -> Row:
        """What is reported of a model; None where a measure is not asked for or not defined."""
        answers = self._answers(stack, name, self.data.task, self._rows.test)
        metric, score, items = self.data.task.metric, answers.score, self._rows.test
        row: Row = {metric: score.value, "stderr": score.stderr, "n": score.n}
        row |= dict.fromkeys(("correct", "value_normalised", "stability", "exact_match"))
        row["also_on"] = {
            other: self._test_on(other, stack, name) for other in self.options.also_on
        }
        if metric != "accuracy":
            return row
        row["correct"] = answers.correct
        if self.options.further:
            row["value_normalised"] = normalised_score(answers, items).value
            if original:
                self._keep_reference(answers)
            else:
                kept = stability(
                    self._reference(), answers.likelihoods, answers.tokens, answers.gold
                )
                row["stability"] = float(kept)
        if self.options.generate:
            written = exact_match(
                stack,
                self.module.tokenizer,
                items[: self.options.generate],
                self.data.max_length,
                self.trim.progress,
                f"{name}: generate",
            )
            if written is not None:
                names = ("exact_match", "exact_match_stderr", "exact_match_n")
                row |= dict(zip(names, written, strict=True))
        return row

    def _test_on(self, other: str, stack: SublayerStack, name: str) -> Row:
        """The score on another task's test items, in that task's own first prompt if need be."""
        task, data = load_task(other), self.data
        prompt = data.prompt if data.prompt in task.prompts else task.prompts[0]
        items = read_test_items(task, data.root, data.test_rows, prompt=prompt)
        answers = self._answers(stack, f"{name}: {other}", task, items)
        correct = answers.correct if task.metric == "accuracy" else None
        return {"metric": task.metric, **answers.score._asdict(), "correct": correct}

    def _answers(
        self, stack: SublayerStack, name: str, task: Task, items: Sequence[Item]
    ) -> Answers:
        stack.model.to(self.device)  # type: ignore[arg-type]
        batches = self.data.evaluation_batches(items)
        return answer(stack, batches, task.metric, self.options.further, self.trim.progress, name)

    def _reference(self) -> Tensor:
        """The untrimmed model's log-likelihoods of the test items' choices.  # (N, K)"""
        path = self._untrimmed_folder / "untrimmed.safetensors"
        if not path.exists():
            stack = SublayerStack(load_model(self.module.base)[0])
            self._keep_reference(self._answers(stack, "untrimmed", self.data.task, self._rows.test))
        return load_file(path)["likelihoods"]

    def _keep_reference(self, answers: Answers) -> None:
        self._untrimmed_folder.mkdir(parents=True, exist_ok=True)
        part = self._untrimmed_folder / ".untrimmed.safetensors.part"
        save_file({"likelihoods": answers.likelihoods}, part)
        part.replace(self._untrimmed_folder / "untrimmed.safetensors")

    def _phase(self, name: str, work: Callable[[], Any]) -> None:
        if name not in self.summary:
            start = time.perf_counter()
            self.summary[name] = work()
            self.summary.setdefault("phase_seconds", {})[name] = time.perf_counter() - start
            write_text(self.summary_path, json.dumps(self.summary, indent=2) + "\n")

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        if "trimmed" in self.summary:  # done already
            yield
            return
        about = self.trim.provenance
        with self.tracker.tracked(self.folder, self.config, about, self.summary):
            yield

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Makes the folder this run's own, or finds that it is."""
        path = self.folder / "config.yaml"
        if not path.exists() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no run; choose another")
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"another process is running in {self.folder}") from error
            if path.exists():
                _compare(self.config, path)
            else:
                write_text(path, yaml.safe_dump(self.config, sort_keys=False))
            self.trim.provenance = {
                "config_hash": config_hash(self.config),
                "seed": self.data.seed,
                "base": self.module.base,
                "task": self.data.task.name,
                "prompt": self.data.prompt,
                "row_sets": self._rows.fingerprints(),
                **provenance(),
            }
            if self.summary_path.exists():
                self.summary = json.loads(self.summary_path.read_text())
                if self.summary["row_sets"] != self._rows.fingerprints():
                    raise InputError(
                        f"the rows have changed since {self.folder} was started; "
                        "choose another --run.dir"
                    )
            else:
                self.summary = {
                    "metric": self.data.task.metric,
                    "data_root": None if self.data.root is None else str(self.data.root),
                    "test_rows": self.data.test_rows,
                    "rows": self._rows.counts(),
                    "rows_read": self._rows.read,
                    "rows_official": dict(self.data.task.official),
                    "rows_dropped_as_shared": self._rows.dropped,
                    **self.trim.provenance,
                }
            yield


def _compare(config: Row, path: Path) -> None:
    """Refuses to go on with another config, and says where they differ."""
    try:
        existing = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        existing = None
    if not isinstance(existing, dict):
        raise InputError(f"{path} is not the config of a run; choose another --run.dir")
    new, old = _flat(json.loads(json.dumps(config, default=str))), _flat(existing)
    for key in sorted(new.keys() | old.keys()):
        if new.get(key) != old.get(key):
            raise InputError(
                f"{path.parent} holds a run with another config ({key}: {old.get(key)} there, "
                f"{new.get(key)} here); choose another --run.dir"
            )


def _flat(config: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat

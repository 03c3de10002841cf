"""A few optimizer steps and a scan of a run, measured, to compare a plan with."""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from trimlab.data.domain import DomainData
from trimlab.evaluation.speed import synchronise
from trimlab.memory import peak_memory, release_memory, reset_peak_memory
from trimlab.model.shape import random_model
from trimlab.model.sublayers import Sublayer
from trimlab.planning.calibration import this_machine
from trimlab.planning.duration import calibrated, epoch_seconds, scan_seconds
from trimlab.planning.job import Job
from trimlab.planning.memory import scan as scan_memory
from trimlab.planning.memory import training
from trimlab.planning.settings import RunSettings
from trimlab.planning.sizes import ModelSizes
from trimlab.planning.workload import CHOICES, Workload, of_rows
from trimlab.records.rows import JsonObject
from trimlab.scorers._scoring import score_candidates
from trimlab.training.module import DomainLM

STEPS = 3  # moments of the optimizer are there from the second one on
WORDS = [f"w{i}" for i in range(97)]


@dataclass(frozen=True)
class Measurement:
    """Time and peak memory of a part of a run.

    Attributes:
        seconds: Seconds.
        peak: Peak memory in bytes, the process included on a CPU.
    """

    seconds: float
    peak: int


class Measure(L.Callback):
    """Measures the steps of an epoch, and a scan at its end as Algorithm 1 makes it.

    Args:
        data: The rows.
        settings: The options of the run.
    """

    def __init__(self, data: DomainData, settings: RunSettings):
        self.data, self.settings = data, settings
        self.seconds = list[float]()
        self.found: dict[str, Measurement] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock."""
        if not self.seconds:
            release_memory()
            reset_peak_memory()
        synchronise(pl_module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stops it: the optimizer's step is part of a batch."""
        synchronise(pl_module.device)
        self.seconds.append(time.perf_counter() - self._start)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scans the calibration items."""
        assert isinstance(pl_module, DomainLM)
        mean = sum(self.seconds) / len(self.seconds)
        self.found["training"] = Measurement(mean, peak_memory())
        trim, metric = self.settings.trim, self.settings.metric
        release_memory()
        reset_peak_memory()
        start = time.perf_counter()
        score_candidates(
            trim.scorer, pl_module.stack, self.data, trim.granularity, metric=metric, step=0
        )
        synchronise(pl_module.device)
        self.found["scan"] = Measurement(time.perf_counter() - start, peak_memory())


def measure(job: Job, module: DomainLM, data: DomainData) -> dict[str, Measurement]:
    """Trains for one epoch, and scans the calibration items once.

    Args:
        job: The run.
        module: Its model.
        data: Its rows, those of the job's workload.

    Returns:
        Mean time and peak memory of an optimizer step (`training`), and those of a `scan`.
    """
    module.freeze_all_but(
        Sublayer(block, kind) for block, kinds in enumerate(job.trained) for kind in kinds
    )
    callback = Measure(data, job.settings)
    trainer = L.Trainer(
        accelerator="gpu" if job.machine.cuda else "cpu",
        devices=1,
        precision=job.settings.precision,  # type: ignore[arg-type]
        max_epochs=1,
        limit_train_batches=len(job.batches),
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[callback],
    )
    trainer.fit(module, datamodule=data)
    return callback.found


def measure_steps(
    base: str, config: JsonObject, domain: Callable[..., DomainData]
) -> list[JsonObject]:
    """Measures a few steps and a scan of a run, beside what a plan says of them.

    Args:
        base: Name or folder of the model.
        config: The resolved config of the run.
        domain: Makes the rows: of a model, a config and options of the data.

    Returns:
        For each of both, predicted and measured seconds and bytes.
    """
    data = config["data"]
    rows = STEPS * data["batch_size"]
    held_out = {"calibration_rows": min(8, data["calibration_rows"]), "dev_rows": 4, "test_rows": 4}
    # the process without a model
    before = this_machine(config["trainer"]["accelerator"])
    module = DomainLM(**(config["model"] | {"base": base}))
    items = domain(base, config, train_rows=rows, **held_out)
    settings = RunSettings.from_config(config)
    # every batch is a step, and nothing has trained a teacher
    settings = settings.without_teacher.changed(train_batches=None, accumulated=1)
    sizes = ModelSizes(module.model.config)  # type: ignore[arg-type]
    workload = of_rows(items, settings.training_loss.all_choices)
    job = calibrated(Job(sizes, settings, workload, before))
    planned = {"training": training(job), "scan": scan_memory(job)}
    seconds = {"training": epoch_seconds(job) / job.steps, "scan": scan_seconds(job)}
    found = measure(job, module, items)
    return [
        {
            "phase": name,
            "predicted_seconds": seconds[name],
            "measured_seconds": found[name].seconds,
            "predicted_bytes": planned[name].total - job.machine.cuda * job.machine.base,
            "measured_bytes": found[name].peak,
            "parts": planned[name].parts,
        }
        for name in found
    ]


# ---- rows and models to measure with -----------------------------------------------------------


@contextmanager
def made_up(config: PreTrainedConfig, workload: Workload) -> Iterator[Path]:
    """A model with random weights, its tokenizer of one word, and rows of a workload's lengths.

    Yields:
        A folder with the model in `model`, and rows for the task `jsonl` in `rows`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_model(config, torch.float32, torch.device("cpu")).save_pretrained(folder / "model")
        words = models.WordLevel({"</s>": 0} | {w: 1 + i for i, w in enumerate(WORDS)}, "</s>")
        tokenizer = Tokenizer(words)
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="</s>"
        ).save_pretrained(folder / "model")
        write_rows(folder / "rows", workload)
        yield folder


def write_rows(folder: Path, workload: Workload) -> None:
    """Writes rows for the task `jsonl` whose texts have the lengths of a workload."""
    folder.mkdir()
    generator = random.Random(0)

    def text(n: int) -> str:
        return " ".join(generator.choices(WORDS, k=n))

    files = {
        "train": workload.train,
        "validation": [*workload.calibration, *workload.dev],
        "test": workload.test,
    }
    for name, items in files.items():
        choices = 2 if name == "train" else CHOICES  # the right one alone is trained on
        rows = []
        for item in items:
            extra = (choices - 1) * item.scored if name != "train" else 0
            context = text(max(1, item.tokens - extra - item.scored))
            rows.append(
                {
                    "context": context,
                    "choices": [text(item.scored) for _ in range(choices)],
                    "answer": 0,
                }
            )
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))

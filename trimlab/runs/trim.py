"""`trimlab.trim`: a run from Python."""

import json
from pathlib import Path
from typing import Any

import lightning as L

from trimlab.algorithm import Trim
from trimlab.data.domain import DomainData
from trimlab.records.rows import JsonObject
from trimlab.runs.fitting import PLACES, TRAINER_DEFAULTS, make_trainer
from trimlab.runs.options import RunOptions, present_names
from trimlab.runs.recipe import DEFAULT_RECIPE, with_recipe
from trimlab.runs.run import Run
from trimlab.runs.tracking import Tracker, WandbOptions
from trimlab.training.module import DomainLM


def trim(
    base: str = "smollm2-135m",
    task: str = "icd10_chapters",
    run_dir: str | Path = "runs/trim",
    *,
    recipe: str = DEFAULT_RECIPE,
    model: JsonObject | None = None,
    data: JsonObject | None = None,
    run: JsonObject | None = None,
    trainer: JsonObject | None = None,
    wandb: JsonObject | None = None,
    seed: int = 0,
    **options: Any,
) -> JsonObject:
    """Trims a model on a domain: `trimlab fit`, from Python.

    Args:
        base: Base model: embedded name, local folder, or hub id.
        task: Task name; `jsonl` or `text` with `data={"root": ...}` for your own data.
        run_dir: Run folder; starting again in the folder of an unfinished run resumes it.
        recipe: A file in `trimlab/runs/recipes`, whose options stand below all that is given.
        model: Further arguments of `DomainLM`, e.g. `{"lr": 5e-5}`.
        data: Further arguments of `DomainData`, e.g. `{"train_rows": 400}`.
        run: Further fields of `RunOptions`, e.g. `{"full_depth": False}`.
        trainer: Arguments of `lightning.Trainer`, e.g. `{"precision": "bf16-true"}`.
        wandb: Fields of `WandbOptions`, e.g. `{"mode": "disabled"}`.
        seed: Seed of everything.
        **options: Arguments of `Trim`, e.g. `target_layer_memory=0.5, packable=True`.

    Returns:
        The summary, as in `summary.json`; there, paths of models begin in the run folder.

    Raises:
        InputError: Something in the input cannot work; the message says what to do.
    """
    given = present_names(
        {
            "recipe": recipe,
            "seed_everything": seed,
            "model": {"base": str(base), **(model or {})},
            "data": {"task": task, "seed": seed, **(data or {})},
            "trim": {k: v for k, v in options.items() if k != "progress"},
            "run": run or {},
            "trainer": trainer or {},
        }
    )
    config = {k: v for k, v in with_recipe(given).items() if k != "recipe"}
    L.seed_everything(seed, workers=True, verbose=False)
    module = DomainLM(**config["model"])
    rows = DomainData(module.tokenizer, **config["data"])
    settings = TRAINER_DEFAULTS | config["trainer"]
    return Run(
        module=module,
        data=rows,
        trim=Trim(**config["trim"] | options),
        options=RunOptions(dir=Path(run_dir), **config["run"]),
        config=json.loads(json.dumps(_without_places(config), default=str)),
        make_trainer=lambda **more: make_trainer(**settings | more),
        tracker=Tracker(WandbOptions(**(wandb or {}))),
    )().to_row()


def _without_places(config: JsonObject) -> JsonObject:
    """A config without where it computes, as it was before that could be chosen."""
    trainer = {k: v for k, v in config["trainer"].items() if k not in PLACES}
    return config | {"trainer": trainer}

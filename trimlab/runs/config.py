"""The command line and the config of `trimlab fit`, and the run that they describe."""

import json
import os
import sys
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import lightning as L
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from trimlab.algorithm import Trim
from trimlab.baseline import baseline_class
from trimlab.data.domain import DomainData
from trimlab.data.source import DataSource
from trimlab.data.task import load_task
from trimlab.errors import InputError, RankError
from trimlab.files import exists, read_yaml
from trimlab.model.notes import note_once
from trimlab.records.rows import JsonObject
from trimlab.runs.fitting import PLACES, TRAINER_DEFAULTS, make_trainer
from trimlab.runs.options import RunOptions, present_arguments, present_names
from trimlab.runs.processes import processes_to_start, run_processes
from trimlab.runs.recipe import (
    DEFAULT_RECIPE,
    options_text,
    recipe_arguments,
    recipe_names,
    with_recipe,
)
from trimlab.runs.run import Run
from trimlab.runs.run_id import distinctive
from trimlab.runs.tracking import Tracker, WandbOptions
from trimlab.training.module import DomainLM

# the classes whose arguments are the options of each section
SECTIONS: dict[str, tuple[type, ...]] = {
    "model": (DomainLM,),
    "data": (DomainData, DataSource),
    "trim": (Trim,),
    "run": (RunOptions,),
    "wandb": (WandbOptions,),
    "trainer": (L.Trainer,),
}
# where a run is kept and how it is watched, without influence on its result; and the name of the
# recipe, whose options are resolved
NOT_THE_RESULT = ("config", "recipe", "resume", "wandb", "run.dir", "run.shared", "trim.progress")


class FitCLI(LightningCLI):
    """The parser of `trimlab fit`, and the parts that a config describes.

    Args:
        args: Arguments of the command line, or a config.
    """

    def __init__(self, args: list[str] | JsonObject):
        self.arguments = [] if isinstance(args, dict) else args
        super().__init__(
            DomainLM,
            DomainData,
            args=with_recipe(_checked(args)) if isinstance(args, dict) else _present(args),
            run=False,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "trimlab fit",
                "exit_on_error": False,
                "default_env": False,
                "description": "Trims a model on a domain. "
                "Give a config and override what you like.",
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of trimming, of a run and of tracking."""
        parser.add_class_arguments(Trim, "trim")
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_argument(
            "--recipe",
            default=DEFAULT_RECIPE,
            help="a file in trimlab/runs/recipes, whose options stand below all that is given and "
            "take the place of the defaults shown here: "
            + "; ".join(f"{name} ({options_text(name)})" for name in recipe_names()),
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="go on with the run in run.dir (a start in a run's folder does so anyway)",
        )
        parser.link_arguments("model.tokenizer", "data.tokenizer", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.set_defaults({f"trainer.{k}": v for k, v in TRAINER_DEFAULTS.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line or a config.

        Raises:
            InputError: An option that needs a value is null, or the seed is out of range.
        """
        super().parse_arguments(parser, args)
        _check_values(self.config)

    def before_instantiate_classes(self) -> None:
        """Starts the processes of a run with several devices, and waits for their end.

        Raises:
            InputError: These devices are not there, or the strategy is not supported.
            RankError: The processes have ended: well with code 0.
        """
        places, accelerator = self.places(), self.config["trainer"]["accelerator"]
        if places == PLACES:
            return
        trainer = make_trainer(**places, accelerator=accelerator, logger=False)
        if n := processes_to_start(trainer):
            cores = os.cpu_count() or 1
            if trainer.strategy.root_device.type == "cpu" and n > cores:
                note_once(f"trainer.devices {n}: the processes share {cores} cores")
            run_processes([sys.executable, "-m", "trimlab.cli", "fit", *self.arguments], n)
            raise RankError(code=0)

    def places(self) -> JsonObject:
        """Where the run computes: devices, machines, and the name of the strategy."""
        places = {name: self.config["trainer"][name] for name in PLACES}
        if not isinstance(places["strategy"], str):  # a class, not instantiated yet
            places["strategy"] = places["strategy"].class_path.rpartition(".")[2]
        return places

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Makes a trainer from the config's settings and those of a phase of a run."""
        if not kwargs:  # by LightningCLI itself; a run makes its trainers, one per fit
            return None  # type: ignore[return-value]
        mine = self.config_init["trainer"]
        if mine["max_epochs"] is not None:
            raise InputError("leave trainer.max_epochs out: trim.epochs_* and the target plan it")
        settings = {**mine, **kwargs}
        settings["callbacks"] = [*(mine["callbacks"] or []), *kwargs["callbacks"]]
        if kwargs["logger"] and mine["logger"] not in (None, True, False):
            settings["logger"] = [kwargs["logger"], mine["logger"]]
        if settings["enable_progress_bar"] is not False:
            settings["callbacks"] = [*settings["callbacks"], TQDMProgressBar()]
        return make_trainer(**settings)

    def make_run(self) -> Run:
        """The run that the config describes.

        Raises:
            InputError: `--resume` is given and there is no run, or the device cannot do what the
                options ask for.
        """
        options = self.config_init["run"]
        if self.config_init["resume"] and not (options.dir / "config.yaml").exists():
            raise InputError(f"nothing to resume: {options.dir} holds no run")
        return Run(
            module=self.model,
            data=self.datamodule,
            trim=self.config_init["trim"],
            options=options,
            config=self.resolved(self.config),
            make_trainer=self.instantiate_trainer,
            tracker=Tracker(self.config_init["wandb"]),
        )

    def resolved(self, config: Any) -> JsonObject:
        """A parsed config with its defaults, without options that do not change the result.

        Options that came after the first recorded runs are left out where they are unused, see
        `distinctive`.
        """
        return distinctive(self.complete(config), self._defaults)

    @cached_property
    def _defaults(self) -> JsonObject:
        return self.complete(self.parser.get_defaults())

    def complete(self, config: Any) -> JsonObject:
        """A parsed config with its defaults, all of them, and without where the run is kept."""
        # as JSON, the same values in a tenth of the time of YAML
        row: JsonObject = json.loads(
            self.parser.dump(config, format="json", skip_none=False, skip_validation=True)
        )
        if row["run"]["generate"] is None:
            row["run"]["generate"] = load_task(row["data"]["task"]).generate
        for name in NOT_THE_RESULT:
            section, _, option = name.rpartition(".")
            (row[section] if section else row).pop(option, None)
        row["trainer"] |= PLACES
        return row


class Resolver(FitCLI):
    """Checks and resolves configs without making their parts.

    Args:
        arguments: Arguments of the command line.
    """

    def __init__(self, arguments: Sequence[str] = ()):
        super().__init__(args=list(arguments))

    def before_instantiate_classes(self) -> None:
        """Starts nothing."""

    def instantiate_classes(self) -> None:
        """Makes nothing."""

    def __call__(self, config: JsonObject) -> JsonObject:
        """The config with its defaults, as in the `config.yaml` of a run.

        Raises:
            InputError: A key, a type, a scorer or a task is unknown, or a value cannot work.
        """
        try:
            parsed = self.parser.parse_object(with_recipe(_checked(config)))
        except ArgumentError as error:
            raise InputError(str(error)) from error
        _check_values(parsed)
        row = self.resolved(parsed)
        Trim(**parsed["trim"])
        task = load_task(row["data"]["task"]).scored_by(row["data"].get("metric"))
        task.check_prompt(row["data"]["prompt"])
        for task in row["run"]["eval_tasks"]:
            load_task(task)
        for baseline in row["run"].get("compare", []):
            baseline_class(baseline)
        return row


def _checked(config: JsonObject) -> JsonObject:
    """A config of one run under present names, before it is parsed.

    Raises:
        InputError: It is that of an experiment, or a section of it holds no options.
    """
    if "config" in config:  # which the parser would take for the name of a file
        hint = ": `trimlab sweep` makes the runs of an experiment" if "runs" in config else ""
        raise InputError(f"no config of one run, for it has a key `config`{hint}")
    for section in SECTIONS:
        if not isinstance(config.get(section, {}), dict):
            raise InputError(
                f"{section} in a config holds options (name: value), not {config[section]!r:.40}"
            )
    return present_names(config)


def _check_values(config: Any) -> None:
    """Refuses a seed out of range, and null for options whose type has no None.

    The parser takes null for an option of any type.

    Args:
        config: A parsed config.

    Raises:
        InputError: A value cannot be that of its option.
    """
    for section in SECTIONS:
        for option in [name for name, value in vars(config[section]).items() if value is None]:
            if option in _never_null(section):
                name = f"{section}.{option}"
                raise InputError(f"{name} cannot be null: leave it out, or give a value")
    seed = config["seed_everything"]
    if not 0 <= int(seed) < 2**32:  # what numpy takes
        raise InputError(f"seed_everything must be from 0 to 4294967295, not {seed}")


@cache
def _never_null(section: str) -> frozenset[str]:
    """The options of a section whose type has no None."""
    hints = [get_type_hints(holder.__init__) for holder in SECTIONS[section]]
    types = {option: kind for found in hints for option, kind in found.items()}
    return frozenset(name for name, kind in types.items() if NoneType not in get_args(kind))


def _present(arguments: Sequence[str]) -> list[str]:
    """Arguments of `trimlab fit` under present names, in config files, too, behind their recipe.

    A config file with an earlier name is replaced by its translated text; others stay files.
    """
    translated, configs = present_arguments(arguments), list[JsonObject]()
    for i, argument in enumerate(translated):
        option, equals, path = argument.partition("=")
        if option not in ("--config", "-c"):
            continue
        place = i if equals else i + 1
        if not equals and place < len(translated):
            path = translated[place]
        if not (exists(path) and Path(path).is_file()):
            continue  # a config on the command line, or nothing, which the parser reports
        content = read_yaml(Path(path))
        try:
            present = _checked(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        configs.append(present)
        if present != content:
            text = yaml.safe_dump(present, sort_keys=False)
            translated[place] = f"{option}={text}" if equals else text
    return [*recipe_arguments(translated, configs), *translated]

"""The options of what a run does around the trimming, and the names that options had before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from trimlab.errors import InputError
from trimlab.records.rows import JsonObject

# Earlier name -> present name. Configs and command lines are read in both spellings; the id of a
# run is made from the earlier one.
RENAMED = {"run.further": "run.extra_metrics", "run.also_on": "run.eval_tasks"}

TrimFrom = Literal["base", "fine_tuned"]
ExportDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class RunOptions:
    """What a run does around the trimming.

    Attributes:
        dir: Run folder; a start in the folder of an unfinished run with the same config resumes.
        full_depth: Also fine-tune the untrimmed model on the same rows with as many optimizer
            steps, to compare with. With `trim_from: fine_tuned` there is one in any case.
        trim_from: The model whose sublayers are dropped. `base`: the base model, as in the paper;
            the model at full depth is fine-tuned afterwards, for as many epochs. `fine_tuned`: the
            base model fine-tuned in all of its sublayers before the first drop.
        fine_tuning_epochs: Epochs of that fine-tuning before the first drop.
        speed: Measure decoding speed of the full model and of the exports, side by side.
        extra_metrics: Also report length-normalised accuracy, and stability: agreement with the
            untrimmed model (LLM-Streamline). Both need the likelihood of every choice in full,
            where accuracy alone needs the likeliest.
        generate: Test items that each model also answers in its own words (exact match and F1 of
            a greedy answer, in percent); 0: none. Slow. By default 50 where an answer has no
            alternatives (tasks completion and chat), and none elsewhere.
        eval_tasks: Other tasks on whose test items every model is scored, too.
        compare: Methods of `baselines/` to compare with, such as `sparsegpt`. One that compresses
            weights does so with the fine-tuned model at full depth or, in a run without it, with
            the final trimmed one; one that changes the structure starts from the untrimmed model,
            and all remaining sublayers are trained for as many epochs.
        shared: Folder in which runs keep results that depend on none of their options (the
            untrimmed model's answers), so that the next run need not compute them again.
        export_dtype: Type of the exported weights: `auto` is the type of the base model's weights
            on disk, others are `float32`, `bfloat16` and `float16`. Exports are measured in their
            own type; float32 weights that float16 cannot hold are written as float32.
    """

    dir: Path = Path("runs/trim")
    full_depth: bool = True
    trim_from: TrimFrom = "base"
    fine_tuning_epochs: int = 3
    speed: bool = True
    extra_metrics: bool = False
    generate: int | None = None
    eval_tasks: list[str] = field(default_factory=list)
    compare: list[str] = field(default_factory=list)
    shared: Path | None = None
    export_dtype: ExportDtype = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir).expanduser())
        if self.shared is not None:
            object.__setattr__(self, "shared", Path(self.shared).expanduser())
        if self.generate is not None and self.generate < 0:
            raise InputError(f"run.generate must be 0 or more, not {self.generate}")
        if self.trim_from not in get_args(TrimFrom):
            known = " or ".join(get_args(TrimFrom))
            raise InputError(f"run.trim_from must be {known}, not {self.trim_from}")
        if self.fine_tuning_epochs < 1:
            raise InputError(
                f"run.fine_tuning_epochs must be at least 1, not {self.fine_tuning_epochs}"
            )
        if self.export_dtype not in get_args(ExportDtype):
            known = ", ".join(get_args(ExportDtype))
            raise InputError(f"run.export_dtype must be one of {known}, not {self.export_dtype}")
        if len({*self.compare}) < len(self.compare):
            raise InputError(f"run.compare names a method twice: {', '.join(self.compare)}")


def present_name(name: str) -> str:
    """The present dotted name of an option."""
    return RENAMED.get(name, name)


def present_names(config: JsonObject) -> JsonObject:
    """A config, in sections, with every option under its present name.

    Raises:
        InputError: An option is given under both of its names.
    """
    return _renamed(config, RENAMED)


def earlier_names(config: JsonObject) -> JsonObject:
    """A config, in sections, with every option under the first name that it had."""
    return _renamed(config, {new: old for old, new in RENAMED.items()})


def present_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command line with options under present names.

    Args:
        arguments: Arguments such as `--run.further=true`, or `--run.further` and `true`.
    """
    translated = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            argument = f"--{present_name(name[2:])}{equals}{value}"
        translated.append(argument)
    return translated


def _renamed(config: JsonObject, names: Mapping[str, str]) -> JsonObject:
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in config.items()}
    for before, after in names.items():
        (section, before_option), (_, option) = before.split("."), after.split(".")
        options = result.get(section)
        if not isinstance(options, dict) or before_option not in options:
            continue
        if option in options:
            raise InputError(f"{before} and {after} are the same option; give one of them")
        # in its place, so that the order stays
        result[section] = {option if k == before_option else k: v for k, v in options.items()}
    return result

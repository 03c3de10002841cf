"""Say what a run needs, before anything is downloaded: memory, time, and what would fit."""

import json
from typing import TYPE_CHECKING, Any, NoReturn

from trimlab.commands._quiet import quiet
from trimlab.errors import InputError

if TYPE_CHECKING:
    import argparse

    from trimlab.planning.job import Job
    from trimlab.planning.workload import Workload
    from trimlab.records.rows import JsonObject

DESCRIPTION = """\
Says what a run of `trimlab fit` needs, from its config and the config.json of its model alone: no
weights are downloaded or read. Give the arguments that you would give to `trimlab fit`
(`trimlab fit --help` explains them); the options below are added to them.

The table shows
  - the peak memory of every phase, and what fills it: process or CUDA context, weights, optimizer,
    gradients, activations, logits, and the scan's forward cache and candidates;
  - the time of a step, an epoch, a scan and the whole run;
  - if the run does not fit in the memory: the options with which it does, those that leave the
    result as it is first;
  - what the full and the trimmed model weigh in 16 bits, with their KV cache.

One block of the model is run on tensors without data and counted, for the batches that its items
make. This machine is measured for a few seconds, at the model's own matrix products. A named
machine is planned with the rates of its data sheet, of which 65 % are taken to be reached.
"""

EXAMPLES = """\
examples:
  trimlab plan --config experiments/quickstart.yaml
  trimlab plan --config experiments/profiles/paper.yaml --model.base meta-llama/Llama-2-7b-hf \\
      --data.task sciq --trim.target_layer_memory 0.5 --machine h100
  trimlab plan --shape llama-7b --machine h100 --device-memory 24GiB --tokens 120,400 \\
      --trainer.precision bf16-true --trim.target_layer_memory 0.5
  trimlab plan --shape llama-13b --machine h100 --trainer.devices 8 --trainer.strategy fsdp \\
      --trainer.precision bf16-true --trim.target_layer_memory 0.5
  trimlab plan --config experiments/quickstart.yaml --measure

exit codes: 0 planned, whether or not it fits; 2 wrong input
"""


def run(arguments: list[str]) -> None:
    """`trimlab plan`: what a run needs."""
    options, of_fit = _parser().parse_known_args(arguments)
    quiet()
    from trimlab.commands._plan_view import print_measured, print_plan
    from trimlab.planning.plan import make_plan, parse_memory
    from trimlab.planning.workload import parse_tokens

    if options.shape and any(a.partition("=")[0] == "--model.base" for a in of_fit):
        raise InputError("--shape and --model.base name two models; give one of them")
    memory = parse_memory(options.device_memory) if options.device_memory else None
    tokens = parse_tokens(options.tokens) if options.tokens else None
    config = _fit_config(of_fit)
    if options.measure:
        if options.machine:
            raise InputError("--measure runs here, and --machine names another machine")
        rows = _measured(options.shape, tokens, config)
        print(json.dumps(rows)) if options.json else print_measured(rows)
        return
    plan = make_plan(_job(options, tokens, config), memory)
    print(json.dumps(plan.to_row())) if options.json else print_plan(plan)


def _parser() -> "argparse.ArgumentParser":
    import argparse

    from trimlab.plugins import hyphenated_names

    def names(package: str) -> str:
        return ", ".join(hyphenated_names(package))

    class Parser(argparse.ArgumentParser):
        """Raises what argparse would print with its usage."""

        def error(self, message: str) -> NoReturn:
            raise InputError(message)

    parser = Parser(
        prog="trimlab plan",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--shape",
        metavar="NAME",
        help="a known architecture in place of --model.base: " + names("trimlab.model.shapes"),
    )
    add(
        "--machine",
        metavar="NAME",
        help="the machine of the run: " + names("trimlab.planning.machines") + "; default: this",
    )
    add(
        "--device-memory",
        metavar="SIZE",
        help="the memory that the run must fit in, such as 24GiB; default: all of the machine's",
    )
    add(
        "--tokens",
        metavar="MEAN,MAX",
        help="mean and longest text in tokens, answer included; default: those of the rows where "
        "the rows and the tokenizer are at hand, or else 128,512",
    )
    add(
        "--measure",
        action="store_true",
        help="also run three optimizer steps and a scan here, with random weights where a shape is "
        "given, and print what they took beside the plan",
    )
    add("--json", action="store_true", help="one JSON object instead of tables")
    return parser


def _fit_config(arguments: list[str]) -> "JsonObject":
    """The resolved config of a fit."""
    import warnings

    from trimlab.runs.config import Resolver

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning expects sys.argv
        resolver = Resolver(arguments)
    config = resolver.complete(resolver.config)
    config["trainer"] |= resolver.places()
    return config


def _job(options: Any, tokens: tuple[int, int] | None, config: "JsonObject") -> "Job":
    """The run of a config on the machine that was asked for."""
    from trimlab.model.shape import shape_config
    from trimlab.planning.base import base_config
    from trimlab.planning.calibration import this_machine
    from trimlab.planning.job import Job
    from trimlab.planning.machine import load_machine
    from trimlab.planning.settings import RunSettings
    from trimlab.planning.sizes import ModelSizes

    base, accelerator = config["model"]["base"], config["trainer"]["accelerator"]
    machine = load_machine(options.machine) if options.machine else this_machine(accelerator)
    model = shape_config(options.shape) if options.shape else base_config(base)
    settings = RunSettings.from_config(config)
    workload = _workload(None if options.shape else base, tokens, config)
    sizes = ModelSizes(model)
    settings.trim.rules.check(sizes.stack, settings.trim.granularity)
    return Job(sizes, settings, workload, machine)


def _workload(base: str | None, tokens: tuple[int, int] | None, config: "JsonObject") -> "Workload":
    """The items of a run: its rows where they and the tokenizer are here, or else assumed."""
    from trimlab.data.task import load_task
    from trimlab.planning.base import built_folder
    from trimlab.planning.workload import ASSUMED_ROWS, ASSUMED_TOKENS, assumed, of_rows
    from trimlab.training.losses import load_loss

    data, all_choices = config["data"], load_loss(config["model"]["loss"]).all_choices
    task = load_task(data["task"])
    embedded = task.hub is None and not task.own_rows
    folder = built_folder(base) if base and tokens is None else None
    if folder is not None and (data["root"] or embedded):
        return of_rows(_domain(str(folder), config), all_choices)
    mean, longest = tokens or ASSUMED_TOKENS
    longest = min(longest, data["max_length"])
    counts = {
        "train": data["train_rows"] or task.official.get("train", ASSUMED_ROWS["train"]),
        "calibration": data["calibration_rows"],
        "dev": data["dev_rows"],
        "test": data["test_rows"] or task.official.get("test", ASSUMED_ROWS["test"]),
    }
    return assumed(counts, (min(mean, longest), longest), all_choices=all_choices)


def _domain(folder: str, config: "JsonObject", **options: Any) -> Any:
    """The rows of a config."""
    from trimlab.data.domain import DomainData
    from trimlab.model.loading import load_tokenizer

    data = {name: value for name, value in config["data"].items() if name != "tokenizer"}
    data["seed"] = int(config.get("seed_everything") or 0)
    return DomainData(load_tokenizer(folder), **(data | options))


def _measured(
    shape: str | None, tokens: tuple[int, int] | None, config: "JsonObject"
) -> "list[JsonObject]":
    """What a plan says of a few steps and a scan, beside what they take."""
    from trimlab.model.shape import shape_config
    from trimlab.planning.measuring import STEPS, made_up, measure_steps

    if shape is None:
        return measure_steps(config["model"]["base"], config, _domain)
    rows = {"train_rows": STEPS * config["data"]["batch_size"], "dev_rows": 4, "test_rows": 4}
    few = config | {"data": config["data"] | rows}
    with made_up(shape_config(shape), _workload(None, tokens, few)) as folder:
        few["data"] |= {"task": "jsonl", "root": str(folder / "rows")}
        return measure_steps(str(folder / "model"), few, _domain)

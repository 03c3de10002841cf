"""The command `trimlab`. Heavy imports stay inside the verbs, so that `--help` is quick."""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from trimlab.errors import InputError, disk_is_full

DESCRIPTION = """\
trimlab cuts a large language model down to one domain: it fine-tunes the model on the domain and
drops, one small step at a time, the attention and MLP sublayers that the domain does not need
(TrimLLM, arXiv 2412.11242). What is left is an ordinary, smaller and faster model.
"""

EXAMPLES = """\
examples:
  trimlab fit --config experiments/quickstart.yaml
  trimlab fit --config experiments/quickstart.yaml --trim.target_layer_memory 0.5 \\
      --run.dir runs/half
  trimlab fit --config experiments/own_data.yaml --data.root my_domain --run.dir runs/mine
  trimlab eval runs/quickstart/models/0.75 --tasks icd10cm
  trimlab bench score --against naive --data.task icd10cm
  trimlab report --out report

exit codes: 0 done, 1 failed while running, 2 wrong input
"""

VERBS = {
    "fit": "trim a model on a domain: scan, fine-tune, drop, heal, export, report",
    "eval": "score a model, trimmed or not, on tasks",
    "bench": "race against what a user would run instead, side by side",
    "report": "tables, figures and a page from the records of experiments (from a clone)",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a verb and exits with 0 (done), 1 (failed while running) or 2 (wrong input)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    parser = argparse.ArgumentParser(
        prog="trimlab",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in VERBS.items():
        verbs.add_parser(verb, help=text, add_help=False)
    if not argv:
        parser.print_help()
        sys.exit(2)
    verb = parser.parse_known_args(argv[:1])[0].verb
    sys.exit(_guarded(globals()[f"run_{verb}"], argv[1:], debug))


def _guarded(verb: Any, arguments: list[str], debug: bool) -> int:
    """Runs a verb; errors become one line on standard error."""
    import jsonargparse

    try:
        verb(arguments)
    except (InputError, jsonargparse.ArgumentError) as error:
        if debug:
            raise
        return _say(error, 2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code in (0, None):  # after --help
            return 0
        return _say("interrupted; the same command goes on where it was", 1)
    except Exception as error:
        if debug:
            raise
        if disk_is_full(error):
            return _say("the disk is full; free some space and give the same command again", 2)
        return _say(f"{type(error).__name__}: {error}", 1)
    return 0


def _say(error: object, code: int) -> int:
    line = " ".join(str(error).split())
    print(f"trimlab: {line}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Turns off what libraries say about themselves and a user cannot act on."""
    import logging

    warnings.filterwarnings("ignore", module=r"lightning|torch\.|jsonargparse")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def run_fit(arguments: list[str]) -> None:
    """`trimlab fit`: one run, from the base model to the report."""
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import TQDMProgressBar
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from trimlab.algorithm import Trim
    from trimlab.data import DomainData
    from trimlab.module import DomainLM
    from trimlab.run import TRAINER_DEFAULTS, Run, RunOptions
    from trimlab.summary import print_summary
    from trimlab.tracking import Tracker, WandbOptions

    _quiet()

    class FitCLI(LightningCLI):
        """The parser, and the parts that the config describes."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(Trim, "trim")
            parser.add_class_arguments(RunOptions, "run")
            parser.add_class_arguments(WandbOptions, "wandb")
            parser.add_argument(
                "--resume",
                action="store_true",
                help="go on with the run in run.dir (a start in a run's folder does so anyway)",
            )
            parser.link_arguments("model.tokenizer", "data.tokenizer", apply_on="instantiate")
            parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
            parser.set_defaults({f"trainer.{k}": v for k, v in TRAINER_DEFAULTS.items()})

        def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
            if not kwargs:  # LightningCLI wants one at once; a run makes its own, per phase
                return None  # type: ignore[return-value]
            mine = self.config_init["trainer"]
            if mine["max_epochs"] is not None:
                raise InputError(
                    "leave trainer.max_epochs out: trim.epochs_* and the target plan it"
                )
            settings = {**mine, **kwargs}
            settings["callbacks"] = [*(mine["callbacks"] or []), *kwargs["callbacks"]]
            if kwargs["logger"] and mine["logger"] not in (None, True, False):
                settings["logger"] = [kwargs["logger"], mine["logger"]]
            if settings["enable_progress_bar"] is not False:
                settings["callbacks"] = [*settings["callbacks"], TQDMProgressBar()]
            try:
                return L.Trainer(**settings)
            except (MisconfigurationException, ValueError) as error:  # e.g. no such GPU
                raise InputError(f"trainer: {error}") from error

    cli = FitCLI(
        DomainLM,
        DomainData,
        args=arguments,
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={
            "prog": "trimlab fit",
            "exit_on_error": False,
            "default_env": False,
            "description": "Trims a model on a domain. Give a config and override what you like.",
        },
    )
    options = cli.config_init["run"]
    if cli.config_init["resume"] and not (options.dir / "config.yaml").exists():
        raise InputError(f"nothing to resume: {options.dir} holds no run")
    trim = cli.config_init["trim"]
    tracker = Tracker(cli.config_init["wandb"])
    parts = cli.model, cli.datamodule, trim, options, _resolved(cli), cli.instantiate_trainer
    run = Run(*parts, tracker)
    print_summary(run(), options.dir)


def _resolved(cli: Any) -> dict[str, Any]:
    """The resolved config, without what does not change the result."""
    import yaml

    config = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    for name in ("config", "resume", "wandb"):
        config.pop(name, None)
    config["run"].pop("dir")
    config["trim"].pop("progress")
    return config


def run_eval(arguments: list[str]) -> None:
    """`trimlab eval`: score a model on tasks."""
    _quiet()
    import json
    from pathlib import Path
    from typing import Literal

    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table

    parser = ArgumentParser(
        prog="trimlab eval",
        exit_on_error=False,
        description="Scores a model on tasks: accuracy in percent with its standard error.",
    )
    parser.add_argument("model", type=str, help="an embedded model, a local folder, or a hub id")
    parser.add_argument("--tasks", type=str, required=True, help="task names, with commas between")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--data.prompt", type=str, default="authors", help="prompt format")
    parser.add_argument("--data.test_rows", type=int | None, help="test items, all by default")
    parser.add_argument("--data.seed", type=int, default=0, help="seed of the row choice")
    parser.add_argument(
        "--further", action="store_true", help="also length-normalised accuracy; a little slower"
    )
    parser.add_argument("--device", type=str, default="cpu", help="e.g. cuda")
    parser.add_argument(
        "--backend",
        type=Literal["trimlab", "lm-eval"],
        default="trimlab",
        help="who scores: trimlab, or lm-evaluation-harness itself (acc and acc_norm)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="requests at once (lm-eval)")
    parser.add_argument("--json", action="store_true", help="one JSON line per task")
    options = parser.parse_args(arguments)

    from trimlab.data import DomainData
    from trimlab.evaluate import answer, normalised_score
    from trimlab.harness import harness_evaluate
    from trimlab.models import load_model
    from trimlab.sublayers import SublayerStack

    model, tokenizer = load_model(options.model)
    stack = SublayerStack(model.to(options.device))
    table = Table("task", "metric", "value", "± standard error", "n", title=options.model)
    for name in options.tasks.split(","):
        data = DomainData(tokenizer, name, test_rows=options.data.test_rows)
        items = data.task.test_items(
            options.data.root, options.data.test_rows, options.data.seed, options.data.prompt
        )
        metric = data.task.metric
        if options.backend == "lm-eval":
            if metric != "accuracy":
                raise InputError(f"lm-eval scores multiple choice, and {name} is plain text")
            scores = harness_evaluate(stack.model, tokenizer, items, name, options.batch_size)
        else:
            batches = data.evaluation_batches(items)
            further = options.further and metric == "accuracy"
            answers = answer(stack, batches, metric, further, not options.json, name)
            scores = {metric: answers.score}
            if further:
                scores["accuracy_normalised"] = normalised_score(answers, items)
        for metric, score in scores.items():
            if options.json:
                about = {"model": options.model, "task": name, "metric": metric}
                print(json.dumps(about | {"backend": options.backend} | score._asdict()))
            table.add_row(name, metric, f"{score.value:.2f}", f"{score.stderr:.2f}", str(score.n))
    if not options.json:
        Console().print(table)


def run_bench(arguments: list[str]) -> None:
    """`trimlab bench`: a race, side by side in one process."""
    _quiet()
    import json
    from pathlib import Path

    from jsonargparse import ArgumentParser
    from rich.console import Console

    from trimlab.bench import bench_names, load_bench, table_of
    from trimlab.results import append_row

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: trimlab bench NAME [options]\n")
        print("Times trimlab and a peer in turns, in one process, and compares what they computed.")
        print("Write `trimlab bench NAME --help` for the options of one of these:\n")
        for name in bench_names():
            doc = (load_bench(name).__doc__ or "").partition("\n")[0]
            print(f"  {name:8} {doc} Peers: {', '.join(load_bench(name).peers) or 'none'}.")
        return
    name = arguments[0]
    bench_class = load_bench(name)
    parser = ArgumentParser(
        prog=f"trimlab bench {name}", exit_on_error=False, description=bench_class.__doc__
    )
    parser.add_class_arguments(bench_class, skip={"task", "root"})
    parser.add_argument("--data.task", type=str, default="sciq", help="name of a task")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench.jsonl"), help="where the lines are appended"
    )
    options = parser.parse_args(arguments[1:]).as_dict()
    as_json, out = options.pop("json"), options.pop("out")
    data = options.pop("data")
    with bench_class(task=data["task"], root=data["root"], **options) as bench:
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in bench.rows():
            append_row(out, row)
            rows.append(row)
            if as_json:
                print(json.dumps(row), flush=True)
    if not as_json:
        Console().print(table_of(rows))


def run_report(arguments: list[str]) -> None:
    """`trimlab report`: tables, figures and the page from the records."""
    from pathlib import Path

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab report",
        exit_on_error=False,
        description="Builds index.html, RESULTS.md, tables/ and figures/ from results/*.jsonl.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records")
    options = parser.parse_args(arguments)
    report = _from_a_clone("analysis.report")
    for notice in report.write_report(options.out, options.results):
        print(f"trimlab: {notice}", file=sys.stderr)
    print(options.out / "index.html")


def _from_a_clone(name: str) -> Any:
    """A module of the repository that the package does not ship."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name in (package, name):
            raise InputError(
                f"this verb needs a clone of the repository: its folder `{package}` is not there"
            ) from error
        raise InputError(
            f"{error.name} is not installed: pip install 'trimlab[{package}]'"
        ) from error

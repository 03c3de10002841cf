"""The command `trimlab`. Heavy imports stay inside the verbs, so that `--help` is quick."""

import argparse
import importlib
import os
import signal
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
  trimlab compress sparsegpt runs/quickstart/models/0.75 --data.task icd10cm --out runs/sparse
  trimlab sweep experiments/table3.yaml --profile gemma-270m --only data.task=icd10cm --dry-run
  trimlab report --out report

exit codes: 0 done, 1 failed while running, 2 wrong input
"""

VERBS = {
    "fit": "trim a model on a domain: scan, fine-tune, drop, heal, export, report",
    "eval": "score a model, trimmed or not, on tasks",
    "compress": "make a model smaller by another method, and compare (from a clone)",
    "bench": "race against what a user would run instead, side by side",
    "sweep": "the runs of an experiment file: skips what is done, goes on where it was",
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
    for name in ("torchao", "bitsandbytes", "torch.utils._pytree"):  # transformers imports them
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def run_fit(arguments: list[str]) -> None:
    """`trimlab fit`: one run, from the base model to the report."""
    _quiet()
    from trimlab.config import FitCLI
    from trimlab.summary import print_summary

    run = FitCLI(arguments).make_run()
    print_summary(run(), run.folder)


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
    parser.add_argument(
        "--data.prompt",
        type=str | None,
        help="prompt format; by default `authors` and, for the backend lm-eval, the harness's own "
        "wherever it has the task",
    )
    parser.add_argument("--data.test_rows", type=int | None, help="test items, all by default")
    parser.add_argument(
        "--data.max_length",
        type=int | None,
        help="longest text in tokens, by default what the model reads; a longer context loses its "
        "oldest tokens",
    )
    parser.add_argument(
        "--further", action="store_true", help="also length-normalised accuracy; a little slower"
    )
    parser.add_argument(
        "--generate",
        type=int,
        default=0,
        help="test items that the model also answers in its own words (exact match); slow",
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
    from trimlab.greedy import exact_match
    from trimlab.harness import harness_evaluate
    from trimlab.models import load_model
    from trimlab.results import provenance
    from trimlab.sublayers import SublayerStack
    from trimlab.tasks import fingerprint, load_task

    harness, rows = options.backend == "lm-eval", options.data
    for option, value, least in (
        ("data.test_rows", rows.test_rows, 1),
        ("data.max_length", rows.max_length, 1),
        ("batch_size", options.batch_size, 1),
        ("generate", options.generate, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"{option} must be at least {least}, not {value}")
    if harness and (options.further or options.generate):
        raise InputError("--further and --generate are the backend trimlab's")
    asked = []
    for name in options.tasks.split(","):  # all of them are read before the first is scored
        task = load_task(name)
        if harness and task.metric != "accuracy":
            raise InputError(f"lm-eval scores multiple choice, and {name} is plain text")
        prompt = rows.prompt or (task.prompts[-1] if harness else task.prompts[0])
        asked.append((name, prompt, task.test_items(rows.root, rows.test_rows, prompt=prompt)))

    model, tokenizer = load_model(options.model)
    stack = SublayerStack(model.to(options.device))
    limit = rows.max_length or getattr(model.config, "max_position_embeddings", 1024)
    headings = ("task", "prompt", "metric", "value", "± standard error", "n")
    table = Table(*headings, title=options.model)
    for name, prompt, items in asked:
        data = DomainData(tokenizer, name, max_length=limit)
        most = data.max_length  # the tokenizer may know a lower limit
        metric, further = data.task.metric, options.further and data.task.metric == "accuracy"
        if harness:
            scores = harness_evaluate(model, tokenizer, items, name, options.batch_size, most)
        else:
            batches = data.evaluation_batches(items)
            answers = answer(stack, batches, metric, further, not options.json, name)
            scores = {metric: answers.score}
            if further:
                scores["accuracy_normalised"] = normalised_score(answers, items)
            if options.generate:
                some = items[: options.generate]
                written = exact_match(stack, tokenizer, some, most, not options.json, name)
                scores |= {} if written is None else {"exact_match": written}
        about = {"model": options.model, "task": name, "prompt": prompt, "max_length": most}
        about |= {"backend": options.backend, "rows": fingerprint(items), **provenance()}
        for metric, score in scores.items():
            if options.json:
                print(json.dumps({"metric": metric, **score._asdict(), **about}))
            numbers = (f"{score.value:.2f}", f"{score.stderr:.2f}", str(score.n))
            table.add_row(name, prompt, metric, *numbers)
    if not options.json:
        Console().print(table)


def run_compress(arguments: list[str]) -> None:
    """`trimlab compress`: one of the methods that trimming is compared with."""
    _quiet()
    import json
    from dataclasses import replace
    from pathlib import Path

    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table

    from trimlab.compression import (
        CALIBRATION_TEXTS,
        baseline_class,
        baseline_docs,
        plain_sizes,
        texts_of,
        write_compressed,
        zeros_of,
    )

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: trimlab compress METHOD MODEL --data.task NAME --out FOLDER [options]\n")
        print("Writes a smaller model, and scores it beside the one that it was made of.")
        print("Write `trimlab compress METHOD --help` for the options of one of these:\n")
        for name, doc in baseline_docs().items():
            print(f"  {name:15} {doc}")
        return
    method = baseline_class(arguments[0])
    parser = ArgumentParser(
        prog=f"trimlab compress {arguments[0]}", exit_on_error=False, description=method.__doc__
    )
    parser.add_argument("model", type=str, help="an embedded model, a local folder, or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder of the smaller model")
    parser.add_argument("--data.task", type=str, required=True, help="name of a task")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--data.test_rows", type=int | None, help="test items, all by default")
    parser.add_argument("--data.seed", type=int, default=0, help="seed of the choice of texts")
    parser.add_argument(
        "--texts", type=int, default=CALIBRATION_TEXTS, help="training texts to calibrate on"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    parser.add_class_arguments(method, "method")
    options = parser.parse_args(arguments[1:])
    baseline = method(**options.method.as_dict())

    from trimlab.cost import decode_speeds
    from trimlab.data import DomainData
    from trimlab.evaluate import answer
    from trimlab.models import load_model
    from trimlab.results import provenance
    from trimlab.sublayers import SublayerStack
    from trimlab.tasks import fingerprint

    for option, value in (("texts", options.texts), ("data.test_rows", options.data.test_rows)):
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, not {value}")
    model, tokenizer = load_model(options.model)
    rows = options.data
    held_out: dict[str, Any] = {"calibration_rows": 1, "dev_rows": 1, "test_rows": rows.test_rows}
    data = DomainData(tokenizer, rows.task, rows.root, seed=rows.seed, **held_out)
    texts = texts_of(data.train_items()[: options.texts])
    assert data.rows is not None
    original = SublayerStack(model)
    baseline.check(original)
    stored = write_compressed(baseline, options.model, texts, options.out, tokenizer)
    smaller = SublayerStack(baseline.load(options.out))
    model.to(smaller.model.device)  # type: ignore[arg-type]
    plain, metric = replace(plain_sizes(original), zeros=zeros_of(original)), data.task.metric
    speeds = decode_speeds({"original": original.model, "smaller": smaller.model})
    batches = data.evaluation_batches(data.rows.test)
    table = Table("model", f"{metric} %", "layer memory", "whole model", "zeros", "tokens/s")
    found = {}
    for name, stack, sizes in (("original", original, plain), ("smaller", smaller, stored)):
        score = answer(stack, batches, metric, progress=not options.json, name=name).score
        found[name] = {
            "metric": metric,
            **score._asdict(),
            "layer_memory_ratio": sizes.layers / plain.layers,
            "model_memory_ratio": sizes.model / plain.model,
            "zeros": sizes.zeros,
            "tokens_per_second": speeds[name].tokens_per_second,
        }
        table.add_row(
            options.model if name == "original" else baseline.title,
            f"{score.value:.1f} ± {score.stderr:.1f}",
            *(f"{100 * found[name][size]:.1f} %" for size in list(found[name])[4:7]),
            f"{speeds[name].tokens_per_second:.1f}",
        )
    if options.json:
        about = {"method": arguments[0], "model": options.model, "task": rows.task}
        about |= {"folder": str(options.out), "rows": fingerprint(data.rows.test)}
        print(json.dumps(about | found | provenance()))
        return
    Console().print(table)
    print(f"n = {len(data.rows.test)} test items; {options.out} is the smaller model")
    if baseline.before_training:
        print("It has not been trained since: a fit does that, and --run.compare in one go.")


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
    for option, value in options.items():  # numbers of things, all of them but the seed
        values = value if isinstance(value, (list, tuple)) else [value]
        if option != "seed" and any(type(number) is int and number < 1 for number in values):
            raise InputError(f"--{option} must be at least 1, not {value}")
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


def run_sweep(arguments: list[str]) -> None:
    """`trimlab sweep`: an experiment file, many runs, one record."""
    from pathlib import Path

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab sweep",
        exit_on_error=False,
        description="Makes every run of an experiment that is not done yet, and appends what they "
        "find to results/<experiment>.jsonl. Give the same command again after a kill.",
    )
    parser.add_argument("experiment", type=Path, help="an experiment, e.g. experiments/table6.yaml")
    parser.add_argument("--profile", type=str, required=True, help="model and size of every run")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of every cell: 0, 1, ...")
    parser.add_argument(
        "--limit", type=int | None, help="rehearse with at most so many rows per set"
    )
    parser.add_argument(
        "--only",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        help="cells to run: `--only trim.r=1,0.5 data.task=sciq` keeps r = 1 and 0.5 on SciQ",
    )
    parser.add_argument(
        "--set",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        help="overrides of every run: `--set model.lr=5e-5 data.train_rows=500`",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records")
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep"), help="folder of the runs")
    parser.add_argument("--keep_models", action="store_true", help="keep models and checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="only show what is left to do")
    options = parser.parse_args(arguments).as_dict()

    _quiet()
    from rich.console import Console

    from trimlab.sweep import Sweep, plan

    planned = plan(
        options["experiment"],
        options["profile"],
        options["seeds"],
        options["limit"],
        options["only"],
        options["set"],
        options["data"]["root"],
    )
    sweep = Sweep(planned, options["results"], options["runs"], options["keep_models"])
    if options["dry_run"]:
        Console().print(sweep.table())
        return
    # the fit that is going on would outlive a killed sweep, and keep its folder locked
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = sweep()
    Console().print(sweep.table())
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(planned)} runs failed; see above")


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


if __name__ == "__main__":
    main()

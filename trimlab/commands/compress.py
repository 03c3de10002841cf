"""Make a model smaller by another method, and compare (from a clone)."""

from typing import Any

from trimlab.commands._description import description
from trimlab.commands._placement import add_placement, check_placement
from trimlab.commands._quiet import quiet
from trimlab.errors import InputError


def run(arguments: list[str]) -> None:
    """`trimlab compress`: a baseline, applied to a model."""
    quiet()
    import json

    from rich.console import Console

    from trimlab.baseline import baseline_class

    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help()
        return
    method = baseline_class(arguments[0])
    options = _parser(arguments[0], method).parse_args(arguments[1:])
    for option, value in (("texts", options.texts), ("data.test_rows", options.data.test_rows)):
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, not {value}")
    placement = check_placement(options)
    baseline = method(**options.method.as_dict())
    found = _compare(baseline, options, placement)
    note = baseline.note(options.out)
    if options.json:
        about = {"method": arguments[0], "model": options.model, "task": options.data.task}
        about["note"] = note
        print(json.dumps(about | {"folder": str(options.out)} | found))
        return
    Console().print(_table(found, {"original": options.model, "smaller": baseline.title}))
    print(f"n = {found['smaller']['n']} test items; {options.out} is the smaller model")
    if note:
        print(note)
    if baseline.before_training:
        print("It has not been trained since: a fit does that, and --run.compare in one go.")


def _print_help() -> None:
    from trimlab.baseline import baseline_docs

    print("usage: trimlab compress METHOD MODEL --data.task NAME --out FOLDER [options]\n")
    print("Writes a smaller model, and scores it beside the original.")
    print("Write `trimlab compress METHOD --help` for the options of one of these:\n")
    for name, doc in baseline_docs().items():
        print(f"  {name:15} {doc}")


def _parser(name: str, method: Any) -> Any:
    from pathlib import Path

    from jsonargparse import ArgumentParser

    from trimlab.baseline import CALIBRATION_TEXTS
    from trimlab.data.source import DataSource

    parser = ArgumentParser(
        prog=f"trimlab compress {name}", exit_on_error=False, description=description(method)
    )
    parser.add_argument("model", type=str, help="an embedded model, a local folder, or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder of the smaller model")
    parser.add_argument("--data.task", type=str, required=True, help="name of a task")
    parser.add_class_arguments(DataSource, "data")
    parser.add_argument("--data.test_rows", type=int | None, help="test items, all by default")
    parser.add_argument("--data.seed", type=int, default=0, help="seed of the choice of texts")
    parser.add_argument(
        "--texts", type=int, default=CALIBRATION_TEXTS, help="training texts to calibrate on"
    )
    add_placement(parser)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    parser.add_class_arguments(method, "method")
    return parser


def _compare(baseline: Any, options: Any, placement: Any) -> dict[str, Any]:
    """Writes the smaller model, reloads it, and measures it beside the original."""
    from dataclasses import replace

    from trimlab.baseline import calibration_tokens, write_compressed
    from trimlab.data.domain import DomainData
    from trimlab.data.items import fingerprint
    from trimlab.data.source import source_options
    from trimlab.evaluation.speed import decode_speeds
    from trimlab.model.loading import load_model
    from trimlab.model.sizes import dense_sizes, zeros_of
    from trimlab.model.sublayers import SublayerStack
    from trimlab.records.provenance import provenance
    from trimlab.runs.measure import measure

    model, tokenizer = load_model(options.model, **placement._asdict())
    asked = options.data
    held_out: dict[str, Any] = {"calibration_rows": 1, "dev_rows": 1, "test_rows": asked.test_rows}
    source = source_options(asked)
    data = DomainData(tokenizer, asked.task, seed=asked.seed, **held_out, **source)
    texts = calibration_tokens(data.train_items()[: options.texts])
    assert data.rows is not None
    original = SublayerStack(model)
    baseline.check(original)
    dense = replace(dense_sizes(original), zeros=zeros_of(original))
    stored = write_compressed(
        baseline, options.model, texts, options.out, tokenizer, placement=placement
    )
    smaller = SublayerStack(baseline.load(options.out, placement))
    model.to(smaller.model.device)  # type: ignore[arg-type]
    speeds = decode_speeds({"original": original.model, "smaller": smaller.model})
    found: dict[str, Any] = {"rows": fingerprint(data.rows.test)}
    for name, stack, sizes in (("original", original, dense), ("smaller", smaller, stored)):
        metric, progress = data.task.metric, not options.json
        measured = measure(stack, data, data.rows.test, metric=metric, progress=progress, name=name)
        found[name] = {
            "metric": metric,
            **measured.answers.score._asdict(),
            "layer_memory_ratio": sizes.layers / dense.layers,
            "model_memory_ratio": sizes.model / dense.model,
            "zeros": sizes.zeros,
            "tokens_per_second": speeds[name].tokens_per_second,
        }
    return found | provenance()


def _table(found: dict[str, Any], titles: dict[str, str]) -> Any:
    from rich.table import Table

    from trimlab.records.model_result import with_stderr

    metric = found["original"]["metric"]
    headings = ("model", f"{metric} %", "layer memory", "whole model", "zeros", "tokens/s")
    table = Table(*headings)
    for name, title in titles.items():
        row = found[name]
        shares = (row["layer_memory_ratio"], row["model_memory_ratio"], row["zeros"])
        table.add_row(
            title,
            with_stderr(row["value"], row["stderr"]),
            *(f"{100 * share:.1f} %" for share in shares),
            f"{row['tokens_per_second']:.1f}",
        )
    return table

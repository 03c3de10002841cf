"""Make a model smaller by another method, and compare (from a clone)."""

from typing import Any

from trimlab.commands._quiet import quiet
from trimlab.errors import InputError


def run(arguments: list[str]) -> None:
    """`trimlab compress`: one of the methods that trimming is compared with."""
    quiet()
    import json
    from dataclasses import replace
    from pathlib import Path

    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table

    from trimlab.baseline import (
        CALIBRATION_TEXTS,
        baseline_class,
        baseline_docs,
        calibration_tokens,
        write_compressed,
    )
    from trimlab.model.sizes import dense_sizes, zeros_of

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

    from trimlab.data.domain import DomainData
    from trimlab.data.items import fingerprint
    from trimlab.evaluation.answers import answer
    from trimlab.evaluation.speed import decode_speeds
    from trimlab.model.loading import load_model
    from trimlab.model.sublayers import SublayerStack
    from trimlab.records.provenance import provenance

    for option, value in (("texts", options.texts), ("data.test_rows", options.data.test_rows)):
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, not {value}")
    model, tokenizer = load_model(options.model)
    rows = options.data
    held_out: dict[str, Any] = {"calibration_rows": 1, "dev_rows": 1, "test_rows": rows.test_rows}
    data = DomainData(tokenizer, rows.task, rows.root, seed=rows.seed, **held_out)
    texts = calibration_tokens(data.train_items()[: options.texts])
    assert data.rows is not None
    original = SublayerStack(model)
    baseline.check(original)
    stored = write_compressed(baseline, options.model, texts, options.out, tokenizer)
    smaller = SublayerStack(baseline.load(options.out))
    model.to(smaller.model.device)  # type: ignore[arg-type]
    plain, metric = replace(dense_sizes(original), zeros=zeros_of(original)), data.task.metric
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

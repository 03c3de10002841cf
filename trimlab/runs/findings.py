"""The results of a finished run, as rows of the record of its experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import yaml

from trimlab.errors import InputError
from trimlab.records.identity import without_root
from trimlab.records.model_result import ModelResult
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.result_row import (
    Compressed,
    ExperimentCell,
    Finding,
    ModelName,
    ResultRow,
    RunContext,
    Test,
    Timing,
)
from trimlab.records.rows import JsonObject, read_rows
from trimlab.records.run_summary import RunSummary
from trimlab.runs.folder import RunFolder
from trimlab.runs.options import present_names


def rows_of(cell: ExperimentCell, folder: RunFolder) -> list[ResultRow]:
    """The results of a finished run; the last row says that none is missing.

    Args:
        cell: The run.
        folder: Its folder.

    Raises:
        InputError: The folder holds another run, or its record is damaged.
    """
    summary = folder.read_summary()
    if summary is None or summary.context.config_hash != cell.run:
        raise InputError(f"{folder.path} holds a run of another version of trimlab; remove it")
    record = read_rows(folder.record)
    points = [OperatingPoint.from_row(row) for row in record]
    whole = [point.step for point in points] == list(range(len(points)))
    if not points or not whole or points[-1].finished is None:
        raise InputError(
            f"{folder.record} lacks operating points: it is damaged; remove {folder.summary}, and "
            "the same command measures again"
        )
    # an operating point was made by the process that its own row names, maybe after a resumption
    context = replace(summary.context, config_hash=None)
    contexts = [RunContext.from_row(context.to_row() | row) for row in record]
    rows = [
        ResultRow(cell=cell, context=origin, finding=point)
        for origin, point in zip(contexts, points, strict=True)
    ]
    findings = [*_timings(summary, points), *_tests(summary)]
    rows += [ResultRow(cell=cell, context=context, finding=finding) for finding in findings]
    config = without_root(present_names(yaml.safe_load(folder.config.read_text())))
    return [*rows[:-1], replace(rows[-1], complete=True, config=config)]


def _tests(summary: RunSummary) -> Iterator[Finding]:
    """The test results: the trimmed models last, of each model its own task last."""
    models = summary.named_models()
    for name, model in models:
        if name != "trimmed":
            yield from _tests_of(name, model, summary)
    for method, made in summary.compared.items():
        for model in made:
            yield from _compressed(method, model, summary)
    for name, model in models:
        if name == "trimmed":
            yield from _tests_of(name, model, summary)


def _tests_of(name: ModelName, model: ModelResult, summary: RunSummary) -> Iterator[Test]:
    for measured in _measured(model, summary.context.task):
        yield Test(model=name, **measured)


def _compressed(method: str, model: ModelResult, summary: RunSummary) -> Iterator[Compressed]:
    about = {"method": method, "title": model.title, "of": model.of, "zeros": model.zeros}
    for measured in _measured(model, summary.context.task):
        yield Compressed(**about, **measured)


def _measured(model: ModelResult, task: str) -> Iterator[JsonObject]:
    """The fields that test rows have of a model, for each task that it was tested on."""
    sizes = {
        name: getattr(model, name)
        for name in ("asked_ratio", "layer_memory_ratio", "model_memory_ratio")
        + ("optimizer_steps", "dropped", "tokens_per_second", "tier", "bytes_on_disk")
        + ("dtype", "stored_layer_memory_ratio", "stored_model_memory_ratio")
    }
    for other, result in model.eval_tasks.items():
        yield {"evaluated_on": other, **vars(result), **sizes}
    own = {
        name: getattr(model, name)
        for name in ("metric", "value", "stderr", "n", "correct", "value_normalised", "stability")
        + ("exact_match", "exact_match_stderr", "exact_match_n", "token_f1", "token_f1_stderr")
    }
    yield {"evaluated_on": task, **own, **sizes}


def _timings(summary: RunSummary, points: Sequence[OperatingPoint]) -> Iterator[Timing]:
    """Hours of fine-tuning by scheme (Table 9), of fits that no kill has cut in two."""
    trimming, full = summary.fit_seconds, summary.fine_tuned
    if trimming is not None:
        yield Timing(method="trimllm", epochs=points[-1].epoch + 1, hours=trimming / 3600)
    if full is not None and full.fit_seconds is not None and full.epochs is not None:
        # a rule scores whole blocks, and has dropped by its first operating point
        first = points[0]
        scored = {name for entry in first.scan for name in entry.sublayers}
        everything = set(first.trainable) == scored - set(first.history)
        yield Timing(
            method="full_ft" if everything else "sparse_ft",
            epochs=full.epochs,
            hours=full.fit_seconds / 3600,
        )

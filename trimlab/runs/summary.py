"""The table that ends a run."""

import json
import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trimlab.records.lost_accuracy import lost_accuracy
from trimlab.records.model_result import ModelResult, with_stderr
from trimlab.records.run_summary import RunSummary
from trimlab.runs.labels import HEURISTICS, TITLES, labelled_models, percent


def print_summary(summary: RunSummary, folder: Path) -> None:
    """Prints the results of a run and where they are.

    Args:
        summary: The summary of a finished run.
        folder: The run folder.
    """
    console, final = Console(), summary.trimmed
    console.print(_table(summary))
    if final.exact_match is not None:
        console.print(_written_table(summary))
    how = "with this bypass is an ablation and is not exported"
    files = {
        "report.html": "the run on one page, for a browser",
        "summary.json": "this table and more",
        "record.jsonl": "every operating point with all scores",
    }
    if final.folder is not None:
        how = f"is export tier {final.tier}: {final.blocks} ordinary blocks, "
        how += f"{(final.bytes_on_disk or 0) / 1e6:.0f} MB on disk"
        how += f" in {final.dtype}" if final.dtype else ""
        files["models"] = "the trimmed models, stock Hugging Face folders"
    console.print(
        f"n = {final.n} test items; the trimmed model {how}", highlight=False, soft_wrap=True
    )
    if zeros := _zeros(final):
        console.print(zeros, highlight=False, soft_wrap=True)
    for sentence in lost_accuracy(final, summary.untrimmed, summary.fine_tuned):
        console.print(sentence, style="bold red", highlight=False, soft_wrap=True)
    for name, content in files.items():
        console.print(f"  {folder / name}  {content}", highlight=False, soft_wrap=True)
    console.print(f"stopped because: {summary.stopped_because}", highlight=False)
    if final.folder is not None:
        command = shlex.join(_eval_command(summary, final.folder))
        console.print(f"try next:  {command}", highlight=False, soft_wrap=True)


def _zeros(final: ModelResult) -> str | None:
    """What the zeros of an export of tier T2 cost, and what `packable` would have given."""
    layers, model = final.memory_in_folder
    if final.tier != "T2" or layers is None or model is None:
        return None
    said = (
        "T2: dropped sublayers beside kept ones are stored as zeros, so that the folder has "
        f"{percent(layers)} of the layers and {percent(model)} of the model"
    )
    if (blocks := final.packable_blocks) is None:
        return said
    return f"{said}; with --trim.packable true: {blocks} block{'s' * (blocks > 1)}, and no zeros"


def _table(summary: RunSummary) -> Table:
    """A row per model: accuracy, sizes, speed."""
    base, task = summary.context.base, summary.context.task
    table = Table(title=f"{base} on {task} (test, ± standard error)")
    table.add_column("model")
    # with zeros in an export, what is in the folders comes first, and then what was kept
    zeros = summary.has_zeros
    sizes = ("layer memory", "whole model")
    if zeros:
        sizes = ("layers in folder", "model in folder", "layers kept", "model kept")
    for heading in (f"{summary.metric} %", *sizes, "tokens/s"):
        table.add_column(heading, justify="right")
    heuristics = summary.heuristic_baselines or {}
    for name, label in reversed(HEURISTICS.items()):
        if name in heuristics:
            table.add_row(label, f"{heuristics[name]:.1f}")
    for label, model in labelled_models(summary):
        speed = model.tokens_per_second
        if label == TITLES["untrimmed"]:
            speed = summary.trimmed.untrimmed_tokens_per_second
        table.add_row(label, *_cells(model, zeros), "" if speed is None else f"{speed:.1f}")
    return table


def _written_table(summary: RunSummary) -> Table:
    """A row per model: how near its greedy answers are to the right ones."""
    table = Table(title=f"answers in own words (greedy, n = {summary.trimmed.exact_match_n})")
    table.add_column("model")
    for heading in ("exact match %", "token F1 %"):
        table.add_column(heading, justify="right")
    for label, model in labelled_models(summary):
        f1 = _score(model.token_f1, model.token_f1_stderr)
        table.add_row(label, _score(model.exact_match, model.exact_match_stderr), f1)
    return table


def _score(value: float | None, stderr: float | None) -> str:
    return "" if value is None or stderr is None else with_stderr(value, stderr)


def _cells(model: ModelResult, zeros: bool) -> list[str]:
    """Accuracy and sizes; with zeros in an export, the sizes of the folder, too."""
    kept = (model.layer_memory_ratio, model.model_memory_ratio)
    sizes = (*model.memory_in_folder, *kept) if zeros else kept
    texts = ["" if ratio is None else percent(ratio) for ratio in sizes]
    return [with_stderr(model.value, model.stderr), *texts]


def _eval_command(summary: RunSummary, folder: str) -> list[str]:
    """The command that tests an exported model as the run did."""
    command = ["trimlab", "eval", folder, "--tasks", summary.context.task]
    options = {
        "root": summary.data_root,
        "test_rows": summary.test_rows,
        "prompt": summary.context.prompt,
        **summary.data_options,
    }
    for option, value in options.items():
        if value not in (None, "authors"):  # the defaults of `eval`
            text = value if isinstance(value, str) else json.dumps(value)
            command += [f"--data.{option}", text]
    if summary.metric == "token_accuracy":  # no task's default
        command += ["--data.metric", summary.metric]
    return command

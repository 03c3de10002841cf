"""The table that ends a run."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trimlab.records.rows import Row

# what a baseline has made smaller
OF = {
    "untrimmed": "fine-tuned after it",
    "fine_tuned": "of the fine-tuned",
    "trimmed": "of the trimmed",
}


def print_summary(summary: Row, folder: Path) -> None:
    """Prints what a newcomer wants to know of a run: how good, how small, how fast, where."""
    metric, console = summary["metric"], Console()
    table = Table(title=f"{summary['base']} on {summary['task']} (test, ± standard error)")
    table.add_column("model")
    for heading in (f"{metric} %", "layer memory", "whole model", "tokens/s"):
        table.add_column(heading, justify="right")
    for name, label in (("word_overlap", "word overlap, no model"), ("majority", "majority")):
        if name in summary["shortcuts"]:
            table.add_row(label, f"{summary['shortcuts'][name]:.1f}", "", "", "")
    rows = [("untrimmed", summary["untrimmed"])]
    if "fine_tuned" in summary:
        rows.append(("fine-tuned, full depth", summary["fine_tuned"]))
    exported = "folder" in summary["trimmed"]
    label = "trimmed, reloaded" if exported else "trimmed, in memory"
    rows += [(label, row) for row in summary["models"]]
    for name, compared in summary.items():
        if name.startswith("compared_"):
            rows += [(f"{row['title']}, {OF[row['of']]}", row) for row in compared]
    for label, row in rows:
        score = f"{row[metric]:.1f} ± {row['stderr']:.1f}"
        layers = f"{100 * row.get('layer_memory_ratio', 1):.1f} %"
        whole = f"{100 * row.get('model_memory_ratio', 1):.1f} %"
        speed = f"{row['tokens_per_second']:.1f}" if "tokens_per_second" in row else ""
        if label == "untrimmed" and "untrimmed_tokens_per_second" in summary["trimmed"]:
            speed = f"{summary['trimmed']['untrimmed_tokens_per_second']:.1f}"
        table.add_row(label, score, layers, whole, speed)
    console.print(table)
    final = summary["trimmed"]
    how = "with this bypass is an ablation and is not exported"
    files = [
        ("summary.json", "this table and more"),
        ("record.jsonl", "every operating point with all scores"),
    ]
    if exported:
        how = f"is export tier {final['tier']}: {final['blocks']} ordinary blocks, "
        how += f"{final['bytes_on_disk'] / 1e6:.0f} MB on disk"
        files.append(("models", "the trimmed models, stock Hugging Face folders"))
    console.print(
        f"n = {final['n']} test items; the trimmed model {how}", highlight=False, soft_wrap=True
    )
    for name, what in files:
        console.print(f"  {folder / name}  {what}", highlight=False, soft_wrap=True)
    console.print(f"stopped because: {summary['stopped_because']}", highlight=False)
    if not exported:
        return
    command = ["trimlab", "eval", final["folder"], "--tasks", summary["task"]]
    for option in ("data_root", "test_rows", "seed", "prompt"):
        value = summary[option]
        if value not in (None, 0, "authors"):  # what `eval` does by itself
            command += [f"--data.{option.removeprefix('data_')}", str(value)]
    console.print(f"try next:  {shlex.join(command)}", highlight=False, soft_wrap=True)

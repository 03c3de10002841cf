"""A check of data as tables and text."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimlab.data.check import DataCheck, Lengths
from trimlab.data.token_view import Example, Token

BARS = "▁▂▃▄▅▆▇█"
SHOWN = 80  # tokens of a part of an example; the middle of a longer one is left out
BASELINES = {
    "guessing": "guessing",
    "majority": "the position that is right most often",
    "majority_label": "the label that is right most often in train",
    "word_overlap": "the choice that shares most words with the prompt",
    "longest_choice": "the longest choice",
}


def print_check(check: DataCheck, model: str) -> None:
    """Prints a check of data.

    Args:
        check: The check.
        model: Name of the model whose tokenizer was used.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"task {check.task}, metric {check.metric}, tokenizer of {model}, "
        f"texts of at most {check.max_length} tokens",
        markup=False,
    )
    for line in _rows_read(check):
        console.print(line, markup=False)
    console.print(_sets_table(check))
    for name, found in check.sets.items():
        bars = sparkline(found.length.histogram)
        console.print(f"{name:12}{found.length.min:6} {bars} {found.length.max}", markup=False)
    console.print()
    for line in _balance(check):
        console.print(line, markup=False)
    if check.baselines:
        console.print(_baselines_table(check))
    for example in check.examples:
        console.print()
        for line in _example(example):
            console.print(line)
    console.print()
    _print_problems(console, check)


def _print_problems(console: Console, check: DataCheck) -> None:
    for found in check.duplicates:
        kind = {
            "exact": "the same row",
            "near": "the same row but for case and white space",
            "prompt": "the same prompt with another answer or other choices",
        }[found.kind]
        where = "earlier in it" if found.set == found.other else f"in {found.other}"
        console.print(
            f"repeated: {found.count} of {found.set} stand {where} as well ({kind}), first "
            f"{found.first} = {found.first_other}: {found.text!r}",
            markup=False,
        )
    for note in check.report.notes:
        console.print(f"note: {note}", markup=False)
    for problem in check.problems:
        console.print(Text.assemble(("look at this: ", "bold yellow"), problem.text))
    if not check.problems:
        console.print("nothing found that usually is wrong")


def _rows_read(check: DataCheck) -> list[str]:
    """A line per split that was read."""
    lines = []
    for split, read in check.read.items():
        parts = [f"{split}: {read} rows read"]
        if left_out := check.left_out.get(split):
            parts.append(f"{left_out} left out (also in a set nearer to test, or not usable)")
        if skipped := check.report.skipped.get(split):
            parts.append(f"{skipped} skipped as faulty")
        lines.append(", ".join(parts))
    if check.unknown:
        lines.append(f"unknown tokens: {100 * check.unknown:.2f} %")
    return lines


def _sets_table(check: DataCheck) -> Table:
    title = "tokens: shortest / median / 95 % / longest"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("set")
    for heading in ("items", "prompt", "scored answer", "whole text", "cut"):
        table.add_column(heading, justify="right")
    for name, found in check.sets.items():
        count = str(found.items)
        if found.texts != found.items:
            count += f" in {found.texts} texts"
        parts = map(_numbers, (found.prompt, found.answer, found.length))
        table.add_row(name, count, *parts, str(found.cut))
    return table


def _numbers(lengths: Lengths) -> str:
    return f"{lengths.min}/{lengths.median}/{lengths.p95}/{lengths.max}"


def sparkline(counts: Sequence[int]) -> str:
    """A histogram in one line: a bar per count, and a dot for none."""
    most = max(counts)
    return "".join(BARS[-(-count * 8 // most) - 1] if count else "·" for count in counts)


def _balance(check: DataCheck) -> list[str]:
    """How often each label or, without labels, each position is right: a line per set."""
    lines = []
    for name, found in check.sets.items():
        right = found.labels or {f"answer {k}": n for k, n in found.positions.items()}
        total = sum(right.values())
        shares = [f"{label} {100 * n / total:.0f} %" for label, n in list(right.items())[:10]]
        if len(right) > 10:
            shares.append(f"and {len(right) - 10} more")
        if shares:
            lines.append(f"right in {name}: {', '.join(shares)}")
    return lines


def _baselines_table(check: DataCheck) -> Table:
    table = Table("without a model, always choosing", box=SIMPLE)
    table.add_column("test accuracy %", justify="right")
    for name, label in BASELINES.items():
        if name in check.baselines:
            table.add_row(label, f"{check.baselines[name]:.1f}")
    return table


def _example(example: Example) -> list[Text]:
    """The lines of an item in tokens."""
    where = example.where or "first item"
    trained = ", as it is trained on" if example.set == "train" else ""
    lines = [Text(f"{example.set}, {where}{trained}", style="bold")]
    if example.prompt:
        lines.append(Text.assemble("   prompt  ", _tokens(example.prompt)))
    for k, choice in enumerate(example.choices):
        mark = "→" if k == example.gold else " "
        name = str(k) if len(example.choices) > 1 else "answer" if example.prompt else "text"
        lines.append(Text.assemble(f" {mark} {name:6}  ", _tokens(choice)))
    return lines


def _tokens(tokens: Sequence[Token]) -> Text:
    if len(tokens) > SHOWN:
        half = SHOWN // 2
        gap = f" ... {len(tokens) - 2 * half} tokens ... "
        return Text.assemble(_tokens(tokens[:half]), (gap, "italic"), _tokens(tokens[-half:]))
    line = Text()
    for token in tokens:
        text = token.text.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥")
        style = "reverse" if token.special else "underline" if token.scored else ""
        if token.scored:
            line.append("[", "dim").append(text, style).append("]", "dim")
        else:
            line.append(text, style).append("│", "dim")
    return line

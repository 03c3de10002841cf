"""A plan as tables."""

from rich.console import Console
from rich.table import Table

from trimlab.memory import gib
from trimlab.planning.plan import Plan
from trimlab.records.rows import JsonObject


def print_plan(plan: Plan) -> None:
    """Prints a plan."""
    console = Console()
    job, settings = plan.job, plan.job.settings
    console.print(
        f"{job.sizes.total / 1e6:,.0f} M parameters in {job.sizes.blocks} blocks, "
        f"{job.all_trained / 1e6:,.0f} M trained (r = {settings.r:g}), {settings.precision}, "
        f"on {job.machine.name}. Lengths: {job.workload.source}."
    )
    if (n := settings.processes) > 1:
        console.print(
            f"{n} processes under {settings.strategy}: memory is that of one of them, times are "
            "without communication."
        )
    console.print(_memory(plan))
    console.print(_fitting(plan), soft_wrap=True)
    console.print(_times(plan))
    console.print(_models(plan))


def print_measured(rows: list[JsonObject]) -> None:
    """Prints what was predicted and measured."""
    table = Table(title="Plan and measurement", title_justify="left")
    for column in ("phase", *("time", "measured", "off by"), *("memory", "measured", "off by")):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in rows:
        cells = [row["phase"]]
        for name, show in (("seconds", seconds), ("bytes", gib)):
            predicted, measured = row[f"predicted_{name}"], row[f"measured_{name}"]
            cells += [show(predicted), show(measured), f"{100 * (predicted / measured - 1):+.0f} %"]
        table.add_row(*cells)
    Console().print(table)


def seconds(count: float) -> str:
    """Seconds for people."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (2 * 86_400, 3600, "h")):
        if count < limit:
            return f"{count / unit:.2g} {name}" if count < 10 else f"{count / unit:.0f} {name}"
    return f"{count / 86_400:.1f} days"


def _memory(plan: Plan) -> Table:
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.parts))
    table = Table(title="Peak memory by phase, in GiB", title_justify="left", show_footer=True)
    table.add_column("", footer="total")
    for phase in plan.phases:
        table.add_column(phase.name, footer=f"{phase.total / 2**30:.2f}", justify="right")
    for name in names:
        sizes = [phase.parts.get(name) for phase in plan.phases]
        table.add_row(name, *("" if n is None else f"{n / 2**30:.2f}" for n in sizes))
    return table


def _fitting(plan: Plan) -> str:
    memory = gib(plan.memory)
    if plan.changes is None:
        return f"It does not fit in {memory}, whatever the options."
    if not plan.changes:
        return f"It fits in {memory}."
    reasons = "\n".join(f"  {change}    {change.why}" for change in plan.changes)
    return f"It does not fit in {memory}. It does with\n{reasons}"


def _times(plan: Plan) -> Table:
    found = plan.durations
    table = Table(title="Time", title_justify="left")
    table.add_column("part")
    table.add_column("time", justify="right")
    steps = plan.job.steps
    rows = [("fine-tuning before trimming", found.fine_tuning)] if found.fine_tuning else []
    for name, value in (
        *rows,
        ("optimizer step", found.step),
        (f"epoch ({steps} steps) at full depth", found.epoch),
        ("scan at full depth", found.scan),
        ("dev evaluation", found.dev),
        ("test evaluation", found.test),
        (f"whole run ({found.epochs} epochs, {found.scans} scans)", found.run),
    ):
        table.add_row(name, seconds(value))
    return table


def _models(plan: Plan) -> Table:
    table = Table(title="Models, in 16 bits", title_justify="left")
    lengths = list(plan.sizes[0].cache)
    columns = ("model", "layers", "whole", "parameters", "weights", "KV per token")
    for column in (*columns, *(f"KV at {length:,}" for length in lengths)):
        table.add_column(column, justify="left" if column == "model" else "right")
    for model in plan.sizes:
        table.add_row(
            model.name,
            f"{100 * model.layer_memory_ratio:.0f} %",
            f"{100 * model.model_memory_ratio:.0f} %",
            f"{model.parameters / 1e6:.0f} M",
            gib(model.weights),
            f"{model.cache_per_token / 1024:.1f} KiB",
            *(gib(model.cache[length]) for length in lengths),
        )
    return table

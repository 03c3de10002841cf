"""The commands that measure what a table, a figure or a finding has no record of."""

from collections.abc import Iterable
from pathlib import Path

from trimlab.records.results import Series

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
# The profile that stands on the page even without a record
PROFILE = "smollm2-135m"
# The benchmarks of the paper's tables, and ours
TASKS = ("piqa", "sciq", "medmcqa", "lexglue", "financeqa", "icd10cm")
SEEDS = 3


def sweep(
    experiment: str,
    series: Series,
    *,
    tasks: Iterable[str] = (),
    scorers: Iterable[str] = (),
) -> str:
    """The sweep that measures an experiment, or some cells of it, with all seeds.

    Args:
        experiment: Name of its file.
        series: The series that is to be completed.
        tasks: Only the cells of these tasks; all without any, or if `TASKS` are among them.
        scorers: Only the cells of these importance scores; all without any.
    """
    chosen = [] if {*tasks} >= {*TASKS} else [*tasks]
    only = [
        f"{name}={','.join(values)}"
        for name, values in (("data.task", chosen), ("trim.scorer", [*scorers]))
        if values
    ]
    parts = [
        f"trimlab sweep experiments/{experiment}.yaml --profile {series.profile}",
        f"--seeds {SEEDS} --data.root DIR",
        "--only " + " ".join(only) if only else "",
        "--set " + series.overrides.replace(", ", " ") if series.overrides else "",
    ]
    return " ".join(filter(None, parts))


def bench(benchmark: str, model: str) -> str:
    """The benchmark that times a model, trimmed models and quantised ones in turns (Table 1)."""
    shape = model.removesuffix("-shape")  # records name a model of random weights so
    named = f"--model {model}" if shape == model else f"--shape {shape} --dtype bfloat16"
    return (
        f"trimlab bench {benchmark} {named} --against full "
        '--methods "[pairs,mostly_mlps,llm_int8,int4,sparse24]" --out results/bench.jsonl'
    )


def measuring(result: str, series: Series, model: str) -> str | None:
    """The command that measures a table or figure; None for those of several benchmarks.

    Args:
        result: Name of its file.
        series: The series that is to be completed.
        model: The model of that series.
    """
    if result == "table1":
        return " && ".join(bench(benchmark, model) for benchmark in ("decode", "prefill"))
    experiment = result.partition("_")[2] or result
    if not (EXPERIMENTS / f"{experiment}.yaml").exists():
        return None
    return sweep(experiment, series)

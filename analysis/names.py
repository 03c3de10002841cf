"""How the things of a record are called in a table or a figure."""

import re

from trimlab.records.results import Record, Series

# The paper's columns first, in its order. A task that is not here goes by its own name.
TASKS = {
    "piqa": "PIQA",
    "sciq": "SciQ",
    "medmcqa": "MedMCQA",
    "lexglue": "LexGLUE",
    "financeqa": "FinanceQA",
    "pubmedqa": "PubMedQA",
    "legalbench": "LegalBench",
    "icd10cm": "ICD-10-CM",
    "mmlu_law": "MMLU law",
    "mmlu_economics": "MMLU economics",
}

SCORERS = {
    "two_step": "both (two-step)",
    "sensitivity": "calibration",
    "activation_norm": "activation norm",
    "block_influence": "block influence",
}

RATIOS = {1.0: "1", 0.5: "1/2", 0.25: "1/4", 0.125: "1/8"}


def task_title(task: str) -> str:
    """A task as the paper writes it."""
    return TASKS.get(task, task)


def task_order(task: str) -> tuple[int, str]:
    """Sorts tasks as the paper does, others after them by name."""
    order = list(TASKS)
    return (order.index(task) if task in order else len(order), task)


def scorer_title(scorer: str) -> str:
    """An importance score as the paper calls it."""
    return SCORERS.get(scorer, scorer)


def ratio_title(r: float) -> str:
    """A sparse update ratio as a fraction."""
    return RATIOS.get(r, f"{r:g}")


def machine_title(record: Record) -> str:
    """A model and what it ran on."""
    hardware = record["hardware"]
    processor = hardware.get("gpu") or hardware.get("cpu") or hardware.get("machine")
    return f"{record['base']} on {processor} ({hardware.get('cores')} cores)"


def benchmark_title(record: Record) -> str:
    """The model, the machine and the number of threads of a benchmark."""
    return f"{machine_title(record)}, {record['cell']['threads']} threads"


def workload_title(record: Record, *but: str) -> str:
    """The workload of a benchmark, without the parts that are shown elsewhere.

    Args:
        record: A row of a benchmark.
        but: Other names of its cell to leave out.
    """
    elsewhere = {"bench", "peer", "processor", "threads", *but}
    workload = {key: value for key, value in record["cell"].items() if key not in elsewhere}
    if "r" in workload:
        workload["r"] = ratio_title(workload["r"])
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in workload.items()]
    return ", ".join([task_title(record["task"]), *parts])


def series_title(series: Series) -> str:
    """What a series is, a rehearsal in capitals."""
    title = series.profile
    if series.prompt != "authors":
        title += f", prompt {series.prompt}"
    if series.overrides:
        title += f", {series.overrides}"
    if series.limit is not None:
        title += f", REHEARSAL with {series.limit} rows"
    return title


def series_slug(series: Series) -> str:
    """A series as part of a file name."""
    slug = series.profile
    if series.prompt != "authors":
        slug += f"-{series.prompt}"
    if series.overrides:
        slug += "-" + re.sub(r"[^\w.=-]+", "_", series.overrides)
    if series.limit is not None:
        slug += f"-rehearsal{series.limit}"
    return slug

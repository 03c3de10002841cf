"""Names in tables and figures: tasks, scores, baselines, machines, series."""

import re

from trimlab.records.results import Record, Series

# Titles of tasks, in the order of the paper's columns. Other tasks go by their own name.
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

# Titles of baselines in the paper's spelling and order, ours among them. Other baselines go by the
# title in their records, after these.
BASELINES = {
    "llm_pruner": "LLM-Pruner",
    "llm_streamline": "LLM-Streamline",
    "fasp": "FASP",
    "sparsegpt": "SparseGPT (2:4)",
    "llm_int8": "LLM.int8()",
    "awq": "AWQ-int4",
    "gptq": "GPTQ-int4",
    "billm": "BiLLM",
}

# Titles of importance scores. Other scores go by their own name.
SCORERS = {
    "two_step": "both (two-step)",
    "sensitivity": "calibration",
    "activation_norm": "activation norm",
    "block_influence": "block influence",
}

RATIOS = {1.0: "1", 0.5: "1/2", 0.25: "1/4", 0.125: "1/8"}


def task_title(task: str) -> str:
    """The title of a task, in the paper's spelling."""
    return TASKS.get(task, task)


def task_order(task: str) -> tuple[int, str]:
    """Sort key: the paper's tasks in its order, others after them by name."""
    return _order(TASKS, task)


def baseline_order(method: str) -> tuple[int, str]:
    """Sort key: the known baselines in their order, others after them by name."""
    return _order(BASELINES, method)


def _order(titles: dict[str, str], name: str) -> tuple[int, str]:
    order = list(titles)
    return (order.index(name) if name in order else len(order), name)


def scorer_title(scorer: str) -> str:
    """The title of an importance score."""
    return SCORERS.get(scorer, scorer)


def ratio_title(r: float) -> str:
    """A sparse update ratio as a fraction."""
    return RATIOS.get(r, f"{r:g}")


def machine_title(record: Record) -> str:
    """A model and its machine."""
    hardware = record["hardware"]
    processor = hardware.get("gpu") or hardware.get("cpu") or hardware.get("machine")
    return f"{record['base']} on {processor} ({hardware.get('cores')} cores)"


def benchmark_title(record: Record) -> str:
    """The model, the machine and the number of threads of a benchmark."""
    return f"{machine_title(record)}, {record.entry('cell', 'threads', int)} threads"


def workload_title(record: Record, *but: str) -> str:
    """The workload of a benchmark, without the parts that are shown elsewhere.

    Args:
        record: A row of a benchmark.
        but: Other names of its cell to leave out.
    """
    elsewhere = {"bench", "peer", "processor", "threads", *but}
    workload = {key: value for key, value in record["cell"].items() if key not in elsewhere}
    if "r" in workload:
        workload["r"] = ratio_title(record.entry("cell", "r", float))
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in workload.items()]
    return ", ".join([task_title(record["task"]), *parts])


def series_title(series: Series) -> str:
    """The title of a series; rehearsals in capitals."""
    title = series.profile
    if series.prompt != "authors":
        title += f", prompt {series.prompt}"
    if series.overrides:
        title += f", {series.overrides}"
    if series.limit is not None:
        title += f", REHEARSAL with {series.limit} rows"
    return title


def series_slug(series: Series) -> str:
    """A series as part of a file name, a link and an id; without dots, which begin a suffix."""
    parts = [series.profile]
    if series.prompt != "authors":
        parts.append(series.prompt)
    if series.overrides:
        parts.append(series.overrides)
    if series.limit is not None:
        parts.append(f"rehearsal{series.limit}")
    return "-".join(re.sub(r"[^\w=-]+", "_", part) for part in parts)

"""Typed rows of small, made-up runs: the material of `make_records.py`."""

from dataclasses import replace
from typing import Any

from trimlab.records.operating_point import OperatingPoint, ScannedCandidate
from trimlab.records.result_row import (
    Bench,
    Compressed,
    ExperimentCell,
    Finding,
    ModelName,
    ResultRow,
    RunContext,
    Test,
)

ITEMS = 20
SUBLAYERS = [f"{block}.{kind}" for block in range(4) for kind in ("attention", "mlp")]
PROCESSOR = "Example CPU"


def result_row(
    experiment: str,
    cell: dict[str, Any],
    finding: Finding,
    *,
    task: str = "sciq",
    seed: int = 0,
    limit: int | None = None,
    profile: str = "gemma-270m",
    run: str | None = None,
    **context: Any,
) -> ResultRow:
    """A row of a run, by default of Gemma-3-270M on SciQ, from committed code."""
    # a readable name in place of the hash of the config
    name = "-".join([*(f"{k}={v}" for k, v in sorted(cell.items())), task, str(seed)])[-60:]
    return ResultRow(
        cell=ExperimentCell(
            experiment=experiment,
            profile=profile,
            cell=cell,
            run=run or name,
            seed=seed,
            limit=limit,
        ),
        context=RunContext(
            **{
                "base": "gemma-3-270m",
                "task": task,
                "prompt": "authors",
                "row_sets": {"train": "aa", "calibration": "bb", "dev": "cc", "test": "dd"},
                "git_commit": "43adcf325942",
                "versions": {"trimlab": "0.1.0", "torch": "2.13.0"},
                "hardware": {"machine": "x86_64", "cpu": PROCESSOR, "cores": 2, "gpu": None},
                **context,
            }
        ),
        finding=finding,
    )


def answers(right: int, first: int = 0) -> str:
    """`right` of the items correct, from the item `first` on."""
    return "".join(str(int((item - first) % ITEMS < right)) for item in range(ITEMS))


def scored_fields(trimmed: bool, correct: str | None, evaluated_on: str) -> dict[str, Any]:
    """The fields of a test row; 60 % without the items' answers."""
    n = len(correct or "") or ITEMS
    value = 100 * correct.count("1") / n if correct else 60.0
    p = value / 100
    return {
        "evaluated_on": evaluated_on,
        "metric": "accuracy",
        "value": value,
        "stderr": 100 * (p * (1 - p) / (n - 1)) ** 0.5,
        "n": n,
        "correct": correct,
        "asked_ratio": 0.5 if trimmed else None,
        "layer_memory_ratio": 0.49 if trimmed else 1.0,
        "model_memory_ratio": 0.81 if trimmed else 1.0,
        "optimizer_steps": 100,
        "dropped": SUBLAYERS[:3] if trimmed else [],
        "value_normalised": value - 1 if trimmed else None,
        "stability": 0.9 if trimmed else None,
        "tokens_per_second": 15.5 if trimmed else None,
        "tier": "T1" if trimmed else None,
    }


def scored(
    experiment: str,
    cell: dict[str, Any],
    model: ModelName,
    correct: str | None,
    *,
    evaluated_on: str | None = None,
    sizes: dict[str, float] | None = None,
    **where: Any,
) -> ResultRow:
    """A model's test result; `where` goes to `result_row`."""
    fields = scored_fields(model == "trimmed", correct, evaluated_on or where.get("task", "sciq"))
    if model == "untrimmed":
        fields["optimizer_steps"] = 0
    finding = Test(model=model, **(fields | (sizes or {})))
    return result_row(experiment, cell, finding, **where)


def compressed(
    experiment: str, cell: dict[str, Any], method: str, of: ModelName, right: int
) -> ResultRow:
    """The test result of a compressed model; weights of four bits take about a quarter."""
    fields = scored_fields(of == "trimmed", answers(right), "sciq")
    fields["layer_memory_ratio"] *= {"awq": 0.26, "sparsegpt": 1.0, "llm_pruner": 0.5}[method]
    zeros = 0.5 if method == "sparsegpt" else 0.0
    finding = Compressed(method=method, title=method.upper(), of=of, zeros=zeros, **fields)
    return result_row(experiment, cell, finding)


def points(
    experiment: str, cell: dict[str, Any], order: list[str], devs: list[float], **where: Any
) -> list[ResultRow]:
    """The operating points of a run that drops one sublayer a step, in this order."""
    found = [point(order[:step], devs[: step + 1]) for step in range(len(devs))]
    found[-1] = replace(found[-1], finished="the target is met")
    return [result_row(experiment, cell, finding, **where) for finding in found]


def point(history: list[str], devs: list[float]) -> OperatingPoint:
    """The operating point after these drops; `devs` are the accuracies up to this point."""
    step = len(history)
    scanned = [s for s in SUBLAYERS if s not in history[:-1]]
    left = 1 - sum(2 if s.endswith("mlp") else 1 for s in history) / 12
    return OperatingPoint(
        step=step,
        epoch=step,
        optimizer_steps=20 * (step + 1),
        scan=[
            ScannedCandidate(
                candidate=s,
                # the lowest score is that of the sublayer that is dropped
                score=[0.05 if s in history else round(1.0 + 0.1 * i, 4), 50.0],
                statistics={"accuracy": 70.0 - i, "norm": 10.0 + i},
            )
            for i, s in enumerate(scanned)
        ],
        scan_seconds=10.0,
        dropped=history[-1:],
        history=history,
        trainable=[s for s in SUBLAYERS[-2:] if s not in history],
        metric="accuracy",
        dev=devs[-1],
        dev_stderr=4.0,
        dev_n=50,
        dev_before_drop=devs[-2] if step else None,
        dev_before_drop_stderr=4.0 if step else None,
        layer_memory_ratio=left,
        model_memory_ratio=1 - (1 - left) / 3,
        layer_bytes=round(12_000_000 * left),
        accepted=True,
        finished=None,
        seconds=60.0 - 5 * step + 10,
        peak_rss_bytes=3_400_000_000,
    )


def benchmark(
    name: str,
    what: str,
    workload: dict[str, Any],
    seconds: float,
    *,
    peer: tuple[str, float, float] | None = None,
    same: dict[str, Any] | None = None,
    base: str = "gemma-3-270m",
    **where: Any,
) -> ResultRow:
    """A measurement of three turns; a peer is its name, its seconds in all and their factor."""
    about = {"blocks": 32 if base == "llama-shaped" else None, "threads": 2}
    cell = {"bench": name, "peer": peer and peer[0], **workload, **about}
    cell = {k: v for k, v in cell.items() if v is not None} | {"processor": PROCESSOR}
    finding = Bench(
        bench=name,
        what=what,
        peer=peer and peer[0],
        **times("ours", seconds, 2_000_000_000),
        same=same or {},
        settings=workload | {"model": base, "task": "sciq", "seed": 0} | about,
    )
    if peer:
        (_, middle, factor), peak = peer, 4_000_000_000
        ratios = {"peer_factor": factor, "ratio": middle / seconds, "memory_ratio": 0.5}
        finding = replace(finding, **times("peer", middle, peak, factor), **ratios)
    run = "-".join(str(value) for value in (*list(cell.values())[:-2], base))
    return result_row("bench", cell, finding, run=run, row_sets={}, base=base, **where)


def times(side: str, middle: float, peak: int, factor: float = 1) -> dict[str, Any]:
    """The fields of one side of a benchmark."""
    return {
        f"{side}_seconds": middle,
        f"{side}_spread": round(0.25 * middle, 6),
        f"{side}_turns": [round(x * middle / factor, 6) for x in (1.15, 1.0, 0.9)],
        f"{side}_peak_bytes": peak,
    }

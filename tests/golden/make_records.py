"""Writes `records/*.jsonl`: small records, made up by hand, with every special case once.

    python tests/golden/make_records.py [FOLDER]

The rows are typed, so that they are rows that a sweep or a benchmark could write. The answers are
chosen so that means, standard errors and tests can be computed by hand: see
`tests/analysis/test_measurements.py`.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_up import ITEMS, answers, benchmark, compressed, points, result_row, scored

from trimlab.records.result_row import Bench, ResultRow, Timing, TimingMethod

FOLDER = Path(__file__).parent / "records"


def table3() -> list[ResultRow]:
    rows = []
    two_step = {"trim.scorer": "two_step", "data.task": "sciq"}
    for seed, (full, sparse, trimmed) in enumerate(
        [((18, 0), (17, 1), (14, 0)), ((17, 0), (18, 1), (13, 0))]
    ):
        rows += [
            scored("table3", two_step, "untrimmed", answers(12), seed=seed),
            scored("table3", two_step, "fine_tuned", answers(*sparse), seed=seed),
            scored("table3", two_step, "trimmed", answers(*trimmed), seed=seed),
            scored("table3", {**two_step, "trim.r": 1}, "fine_tuned", answers(*full), seed=seed),
        ]
        rows += two_step_points("table3", seed)
    # one seed, from a dirty tree
    random = {"trim.scorer": "random", "data.task": "sciq"}
    commit = "43adcf325942-dirty"
    rows.append(scored("table3", random, "trimmed", answers(9, 3), git_commit=commit))
    # stopped early: no model at half of the layers
    stopped = {"trim.scorer": "sensitivity", "data.task": "sciq"}
    sizes = {"asked_ratio": 0.75, "layer_memory_ratio": 0.75, "model_memory_ratio": 0.9}
    rows.append(scored("table3", stopped, "trimmed", answers(15), sizes=sizes))
    # without the items' answers
    rows.append(scored("table3", {"trim.scorer": "top", "data.task": "sciq"}, "trimmed", None))
    # a rehearsal
    rows.append(scored("table3", two_step, "trimmed", answers(20), limit=20, run="rehearsal"))
    # another benchmark, trimmed only: no reference for a paired test
    medical = {"trim.scorer": "two_step", "data.task": "medmcqa"}
    rows.append(scored("table3", medical, "trimmed", answers(8), task="medmcqa"))
    return rows


def two_step_points(experiment: str, seed: int) -> list[ResultRow]:
    """The operating points of the two-step runs of Table 3, which Figure 4 shares."""
    cell = {"trim.scorer": "two_step", "data.task": "sciq"}
    order = ["3.mlp", "2.mlp", "1.attention", "1.mlp"]
    devs = [80.0, 78.0, 76.0 - 6 * seed, 73.0, 66.0]
    return points(experiment, cell, order, devs, seed=seed)


def table2() -> list[ResultRow]:
    full = {"trim.scorer": "two_step", "trim.r": 1, "data.task": "sciq"}
    sparse = {"trim.scorer": "two_step", "trim.r": 0.25, "data.task": "sciq"}
    trimmed = [
        scored(
            "table2",
            sparse,
            "trimmed",
            answers(right),
            sizes={"asked_ratio": ratio, "layer_memory_ratio": ratio - 0.01},
        )
        for ratio, right in ((0.5, 16), (0.4, 14), (0.3, 11))
    ]
    return [
        scored("table2", full, "untrimmed", answers(12)),
        scored("table2", full, "fine_tuned", answers(18)),
        compressed("table2", full, "llm_pruner", "untrimmed", 14),
        compressed("table2", full, "sparsegpt", "fine_tuned", 16),
        compressed("table2", full, "awq", "fine_tuned", 17),
        scored("table2", full, "trimmed", answers(15)),  # r = 1: no row of the table
        compressed("table2", full, "awq", "trimmed", 13),
        scored("table2", sparse, "fine_tuned", answers(17)),
        *trimmed,
    ]


def table7() -> list[ResultRow]:
    cell = {"trim.scorer": "two_step", "data.task": "sciq", "trim.packable": True}
    return [
        scored("table7", cell, "untrimmed", answers(12)),
        scored("table7", cell, "trimmed", answers(16)),
        compressed("table7", cell, "awq", "trimmed", 15),
        compressed("table7", cell, "sparsegpt", "trimmed", 13),
    ]


def figure3() -> list[ResultRow]:
    rows = []
    for bypass, order in (
        ("residual", ["0.attention", "3.mlp", "1.attention", "2.mlp"]),
        ("authors", ["3.mlp", "2.mlp", "1.mlp", "0.attention"]),
    ):
        cell = {"data.task": "medmcqa", "trim.bypass": bypass}
        rows += points("figure3", cell, order, [40.0, 41.0, 39.0, 38.0, 36.0], task="medmcqa")
    # the last scan of the last run stopped at the choice
    last = rows[-1].finding
    scan = [
        replace(
            entry,
            statistics=entry.statistics | {"items": 50 if entry.candidate in last.dropped else 30},
        )
        for entry in last.scan
    ]
    rows[-1] = replace(rows[-1], finding=replace(last, scan=scan))
    return rows


def figure4() -> list[ResultRow]:
    """The two-step runs of Table 3, which are measured once for both."""
    return [row for seed in (0, 1) for row in two_step_points("figure4", seed)]


def table4() -> list[ResultRow]:
    cell = {"data.task": "medmcqa"}
    partial = {
        "rows": {"train": 160, "calibration": 7, "dev": 18, "test": ITEMS},
        "rows_read": {"train": 5443, "validation": 4183},
        "rows_official": {"train": 182_822, "validation": 4183},
    }
    where = {"task": "medmcqa", "evaluated_on": "pubmedqa", **partial}
    return [
        scored("table4", cell, model, answers(right), **where)
        for model, right in (("untrimmed", 9), ("fine_tuned", 12), ("trimmed", 11))
    ]


def table5() -> list[ResultRow]:
    cell = {"data.task": "sciq"}
    return [
        scored("table5", cell, model, answers(right), evaluated_on=other)
        for other, results in (("medmcqa", (7, 6, 5)), ("piqa", (12, 12, 10)))
        for model, right in zip(("untrimmed", "fine_tuned", "trimmed"), results, strict=True)
    ]


def table6() -> list[ResultRow]:
    return [
        scored("table6", {"trim.scorer": scorer, "trim.r": r}, "trimmed", answers(right))
        for scorer, r, right in (("two_step", 1, 14), ("two_step", 0.5, 15), ("sensitivity", 1, 13))
    ]


def recipes() -> list[ResultRow]:
    published = {"recipe": "paper", "trim.scorer": "two_step", "trim.r": 0.25}
    ours = {"recipe": "fine_tuned_first", "trim.scorer": "hidden_change", "trim.r": 0.5}
    return [
        scored("recipes", ours, "untrimmed", answers(8)),
        scored("recipes", ours, "fine_tuned", answers(18)),
        *(
            scored("recipes", cell, "trimmed", answers(right), sizes={"asked_ratio": ratio})
            for cell, results in ((published, (14, 12, 9)), (ours, (17, 16, 14)))
            for ratio, right in zip((0.6, 0.5, 0.4), results, strict=True)
        ),
    ]


def table8() -> list[ResultRow]:
    """Another family of models, under another profile."""
    opt = {"base": "facebook/opt-1.3b", "profile": "paper", "task": "piqa"}
    return [
        scored(
            "table8",
            {"data.task": "piqa", "trim.r": r, "model.base": opt["base"]},
            model,
            answers(right),
            **opt,
        )
        for r, model, right in (
            (0.25, "untrimmed", 12),
            (1, "fine_tuned", 15),
            (0.25, "fine_tuned", 14),
            (0.25, "trimmed", 13),
        )
    ]


def table9() -> list[ResultRow]:
    def timing(method: TimingMethod, r: float, seed: int, hours: float) -> ResultRow:
        finding = Timing(method=method, epochs=2, hours=hours)
        return result_row("table9", {"trim.r": r}, finding, run=f"{r}-2-{seed}", seed=seed)

    return [
        timing("full_ft", 1, 0, 0.40),
        timing("full_ft", 1, 1, 0.44),
        timing("trimllm", 1, 0, 0.90),  # not TrimLLM, which updates a quarter
        timing("trimllm", 0.25, 0, 0.20),
        timing("trimllm", 0.25, 1, 0.22),
    ]


def bench() -> list[ResultRow]:
    scores = "log-likelihood of every choice"
    same = {"largest_relative_difference": 2e-6, "items": 100, "same_predictions": 100}
    small = same | {"items": 10, "same_predictions": 10}
    epoch, harness = {"r": 0.25, "batch_size": 16}, ("lm-eval", 60.0, 1)
    dirty = {"git_commit": "43adcf325942-dirty"}
    scanned = {"accuracies": [[80.0, 80.0]] * 6, "same_accuracies": 6}
    of_a_scan = {"peer": ("lm-eval", 840.0, 6), "same": scanned, **dirty}
    trainer, full = ("trainer", 30.0, 1), ("full", 3.0, 1)
    rows = [
        benchmark("score", scores, {"rows": 100}, 5.0, peer=harness, same=same),
        # fewer rows are another workload
        benchmark("score", scores, {"rows": 10}, 0.5, peer=("lm-eval", 4.0, 1), same=small),
        benchmark("scan", "scores of all 36 sublayers", {"rows": 50}, 40.0, **of_a_scan),
        benchmark("train", "one training epoch", {"rows": 64, **epoch}, 10.0, peer=trainer),
        benchmark("decode", "decoding 32 tokens", {"new_tokens": 32}, 2.0, peer=full),
        # without a peer
        benchmark("prefill", "reading 512 tokens", {"prompt_tokens": 512}, 0.8),
    ]

    def growth(axis: str, value: float, seconds: float, **held: Any) -> ResultRow:
        what = "epoch" if axis == "r" else "scan"
        return benchmark("growth", what, {"axis": axis, "value": value, **held}, seconds)

    # scans cost 0.01 N^2 + 0.02 N seconds
    for n in (8, 16, 24, 36):
        held = {"sublayers": n, "items": 8, "context_tokens": 64}
        rows.append(growth("sublayers", n, 0.01 * n**2 + 0.02 * n, **held))
    for n in (4, 8, 16, 32):
        held = {"sublayers": 36, "items": n, "context_tokens": 64}
        rows.append(growth("items", n, 0.5 + 1.6 * n, **held))
    for n in (32, 64, 128, 256):
        held = {"sublayers": 36, "items": 8, "context_tokens": n}
        rows.append(growth("context_tokens", n, 1.0 + 0.2 * n, **held))
    # epochs cost 8 + 4 r seconds, and 8 more at r = 1
    for r, seconds in ((0.125, 8.5), (0.25, 9.0), (0.5, 10.0), (1.0, 20.0)):
        rows.append(growth("r", r, seconds, rows=32))
    llama = {"base": "llama-shaped", "profile": "llama-shaped"}
    harness = ("lm-eval", 20.0, 1)
    rows.append(benchmark("score", scores, {"rows": 100}, 4.0, peer=harness, same=same, **llama))
    rows.append(inference("llm_int8", "LLM.int8()", 6.0, gigabytes=0.6))
    rows.append(inference("int4", "4 bits (NF4)", 4.0, gigabytes=0.4))
    rows.append(inference("mine", "My method", 1.5, gigabytes=0.8))
    return rows


def inference(name: str, title: str, seconds: float, gigabytes: float) -> ResultRow:
    """Decoding by a method that took turns with the model of 3 seconds and 1 GB."""
    row = benchmark(
        "decode",
        f"decoding 32 tokens, {title}",
        {"new_tokens": 32, "method": name},
        seconds,
        peer=("full", 3.0, 1),
    )
    assert isinstance(row.finding, Bench)
    sizes = {"layer_memory_ratio": 1.0, "model_memory_ratio": 1.0}
    sizes |= {"weight_bytes": round(gigabytes * 1e9), "peer_weight_bytes": 10**9}
    settings = row.finding.settings | sizes | {"title": title}
    rates = {"ours_tokens_per_second": 32 / seconds, "peer_tokens_per_second": 32 / 3.0}
    return replace(row, finding=replace(row.finding, settings=settings, rates=rates))


MADE = (
    *(table2, table3, table4, table5, table6, table7, table8, table9),
    *(figure3, figure4, recipes, bench),
)


def texts() -> dict[str, str]:
    """The text of every file, by its name."""
    found = {}
    for make in MADE:
        rows = make()
        for row in rows:
            row.finding.check()
        text = "".join(json.dumps(row.to_row()) + "\n" for row in rows)
        if make is table9:  # a process was killed while it wrote
            text += text.splitlines()[-1][:80]
        found[f"{make.__name__}.jsonl"] = text
    return found


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""Writes `records/*.jsonl`: small, made up by hand, every special case in them once.

    python tests/golden/make_records.py

The answers are chosen so that means, standard errors and tests can be computed by hand: see
`tests/analysis/test_measurements.py`.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "records"
ITEMS = 20
SUBLAYERS = [f"{block}.{kind}" for block in range(4) for kind in ("attention", "mlp")]


def common(kind: str, experiment: str, cell: dict[str, Any], **more: Any) -> dict[str, Any]:
    task = more.get("task", "sciq")
    name = "-".join(
        [*(f"{k}={v}" for k, v in sorted(cell.items())), task, str(more.get("seed", 0))]
    )
    return {
        "schema": 1,
        "kind": kind,
        "experiment": experiment,
        "profile": "gemma-270m",
        "cell": cell,
        # a readable stand-in for the hash of the config
        "run": name[-60:],
        "seed": 0,
        "limit": None,
        "git_commit": "43adcf325942",
        "versions": {"trimlab": "0.1.0", "torch": "2.13.0"},
        "hardware": {"machine": "x86_64", "cpu": "Example CPU", "cores": 2, "gpu": None},
        "base": "gemma-3-270m",
        "task": task,
        "prompt": "authors",
        "row_sets": {"train": "aa", "calibration": "bb", "dev": "cc", "test": "dd"},
        **more,
    }


def answers(right: int, first: int = 0) -> str:
    """`right` of the items correct, from the item `first` on."""
    return "".join(str(int((item - first) % ITEMS < right)) for item in range(ITEMS))


def test(
    experiment: str, cell: dict[str, Any], model: str, correct: str | None, **more: Any
) -> dict[str, Any]:
    n = len(correct or "") or ITEMS
    value = 100 * (correct or "").count("1") / n if correct else 60.0
    p = value / 100
    trimmed = model == "trimmed"
    return common("test", experiment, cell) | {
        "model": model,
        "evaluated_on": more.get("task", "sciq"),
        "asked_ratio": 0.5 if trimmed else None,
        "layer_memory_ratio": 0.49 if trimmed else 1.0,
        "model_memory_ratio": 0.81 if trimmed else 1.0,
        "metric": "accuracy",
        "value": value,
        "stderr": 100 * (p * (1 - p) / (n - 1)) ** 0.5,
        "n": n,
        "correct": correct,
        "value_normalised": value - 1 if trimmed else None,
        "stability": 0.9 if trimmed else None,
        "exact_match": None,
        "optimizer_steps": 0 if model == "untrimmed" else 100,
        "seconds": 12.5,
        "dropped": SUBLAYERS[:3] if trimmed else [],
        "tokens_per_second": 15.5 if trimmed else None,
        "tier": "T1" if trimmed else None,
        **common("test", experiment, cell, **more),
        **{k: v for k, v in more.items() if k not in ("task", "seed")},
    }


def points(
    experiment: str, cell: dict[str, Any], order: list[str], devs: list[float], **more: Any
) -> list[dict[str, Any]]:
    """The operating points of a run that drops one sublayer a step, in this order."""
    rows = []
    for step, dev in enumerate(devs):
        history = order[:step]
        before = history[:-1]
        left = [s for s in SUBLAYERS if s not in before]
        # the next to go has the lowest score
        scan: list[dict[str, Any]] = [
            {"candidate": s, "score": [1.0 + 0.1 * i - (2.0 if s in history else 0.0), 50.0]}
            | {"accuracy": 70.0 - i, "norm": 10.0 + i}
            for i, s in enumerate(left)
        ]
        for entry in scan:
            entry["score"][0] = round(max(entry["score"][0], 0.05), 4)
        sizes = sum(2 if s.endswith("mlp") else 1 for s in history) / 12
        rows.append(
            common("operating_point", experiment, cell, **more)
            | {
                "step": step,
                "epoch": step,
                "optimizer_steps": 20 * (step + 1),
                "dropped": history[-1:],
                "history": history,
                "trainable": [s for s in SUBLAYERS[-2:] if s not in history],
                "scan": scan,
                "metric": "accuracy",
                "dev": dev,
                "dev_stderr": 4.0,
                "dev_n": 50,
                "layer_memory_ratio": 1 - sizes,
                "model_memory_ratio": 1 - sizes / 3,
                "seconds": 60.0 - 5 * step + 10,
                "scan_seconds": 10.0,
                "peak_rss_bytes": 3_400_000_000,
                "accepted": True,
                "finished": "the target is met" if step == len(devs) - 1 else None,
            }
        )
    return rows


def table3() -> list[dict[str, Any]]:
    rows = []
    two_step = {"trim.scorer": "two_step", "data.task": "sciq"}
    for seed, (full, sparse, trimmed) in enumerate(
        [((18, 0), (17, 1), (14, 0)), ((17, 0), (18, 1), (13, 0))]
    ):
        rows += [
            test("table3", two_step, "untrimmed", answers(12), seed=seed),
            test("table3", two_step, "fine_tuned", answers(*sparse), seed=seed),
            test("table3", two_step, "trimmed", answers(*trimmed), seed=seed),
            test("table3", {**two_step, "trim.r": 1}, "fine_tuned", answers(*full), seed=seed),
        ]
        rows += points(
            "table3",
            two_step,
            ["3.mlp", "2.mlp", "1.attention", "1.mlp"],
            [80.0, 78.0, 76.0 - 6 * seed, 73.0, 66.0],
            seed=seed,
        )
    # one seed, from a dirty tree
    rows.append(
        test(
            "table3",
            {"trim.scorer": "random", "data.task": "sciq"},
            "trimmed",
            answers(9, 3),
            git_commit="43adcf325942-dirty",
        )
    )
    # stopped early: no model at half of the layers
    rows.append(
        test(
            "table3",
            {"trim.scorer": "sensitivity", "data.task": "sciq"},
            "trimmed",
            answers(15),
            asked_ratio=0.75,
            layer_memory_ratio=0.75,
            model_memory_ratio=0.9,
        )
    )
    # without the items' answers
    rows.append(test("table3", {"trim.scorer": "top", "data.task": "sciq"}, "trimmed", None))
    # a rehearsal
    rows.append(test("table3", two_step, "trimmed", answers(20), limit=20, run="rehearsal"))
    # another benchmark, trimmed only: nothing to test against
    medical = {"trim.scorer": "two_step", "data.task": "medmcqa"}
    rows.append(test("table3", medical, "trimmed", answers(8), task="medmcqa"))
    return rows


def compressed(
    experiment: str, cell: dict[str, Any], method: str, of: str, right: int, **more: Any
):
    """What a baseline made of a model; weights of four bits take about a quarter."""
    row = test(experiment, cell, "trimmed" if of == "trimmed" else "fine_tuned", answers(right))
    ratio = {"awq": 0.26, "sparsegpt": 1.0, "llm_pruner": 0.5}[method]
    row["layer_memory_ratio"] *= ratio
    del row["model"]
    about = {"kind": "compressed", "method": method, "title": method.upper(), "of": of}
    return row | about | {"zeros": 0.5 if method == "sparsegpt" else 0.0, **more}


def table2() -> list[dict[str, Any]]:
    full = {"trim.scorer": "two_step", "trim.r": 1, "data.task": "sciq"}
    sparse = {"trim.scorer": "two_step", "trim.r": 0.25, "data.task": "sciq"}
    return [
        test("table2", full, "untrimmed", answers(12)),
        test("table2", full, "fine_tuned", answers(18)),
        compressed("table2", full, "llm_pruner", "untrimmed", 14),
        compressed("table2", full, "sparsegpt", "fine_tuned", 16),
        compressed("table2", full, "awq", "fine_tuned", 17),
        test("table2", full, "trimmed", answers(15)),  # r = 1: not the table's
        compressed("table2", full, "awq", "trimmed", 13),
        test("table2", sparse, "fine_tuned", answers(17)),
        *(
            test("table2", sparse, "trimmed", answers(right))
            | {"asked_ratio": ratio, "layer_memory_ratio": ratio - 0.01}
            for ratio, right in ((0.5, 16), (0.4, 14), (0.3, 11))
        ),
    ]


def table7() -> list[dict[str, Any]]:
    cell = {"trim.scorer": "two_step", "data.task": "sciq", "trim.packable": True}
    return [
        test("table7", cell, "untrimmed", answers(12)),
        test("table7", cell, "trimmed", answers(16)),
        compressed("table7", cell, "awq", "trimmed", 15),
        compressed("table7", cell, "sparsegpt", "trimmed", 13),
    ]


def figure3() -> list[dict[str, Any]]:
    rows = []
    for bypass, order in (
        ("residual", ["0.attention", "3.mlp", "1.attention", "2.mlp"]),
        ("authors", ["3.mlp", "2.mlp", "1.mlp", "0.attention"]),
    ):
        cell = {"data.task": "medmcqa", "trim.bypass": bypass}
        rows += points("figure3", cell, order, [40.0, 41.0, 39.0, 38.0, 36.0], task="medmcqa")
    # the last run's last scan stopped at the choice
    for entry in rows[-1]["scan"]:
        entry["items"] = 50 if entry["candidate"] in rows[-1]["dropped"] else 30
    return rows


def table4() -> list[dict[str, Any]]:
    cell = {"data.task": "medmcqa"}
    partial = {
        "rows": {"train": 160, "calibration": 7, "dev": 18, "test": ITEMS},
        "rows_read": {"train": 5443, "validation": 4183},
        "rows_official": {"train": 182_822, "validation": 4183},
    }
    more = {"task": "medmcqa", "evaluated_on": "pubmedqa", **partial}
    return [
        test("table4", cell, model, answers(right), **more)
        for model, right in (("untrimmed", 9), ("fine_tuned", 12), ("trimmed", 11))
    ]


def table5() -> list[dict[str, Any]]:
    cell = {"data.task": "sciq"}
    return [
        test("table5", cell, model, answers(right), evaluated_on=other)
        for other, results in (("medmcqa", (7, 6, 5)), ("piqa", (12, 12, 10)))
        for model, right in zip(("untrimmed", "fine_tuned", "trimmed"), results, strict=True)
    ]


def table6() -> list[dict[str, Any]]:
    return [
        test("table6", {"trim.scorer": scorer, "trim.r": r}, "trimmed", answers(right))
        for scorer, r, right in (("two_step", 1, 14), ("two_step", 0.5, 15), ("sensitivity", 1, 13))
    ]


def table8() -> list[dict[str, Any]]:
    """Another family of models, under another profile."""
    opt = {"base": "facebook/opt-1.3b", "profile": "paper"}
    return [
        test(
            "table8",
            {"data.task": "piqa", "trim.r": r, "model.base": opt["base"]},
            model,
            answers(right),
        )
        | {**opt, "task": "piqa", "evaluated_on": "piqa"}
        for r, model, right in (
            (0.25, "untrimmed", 12),
            (1, "fine_tuned", 15),
            (0.25, "fine_tuned", 14),
            (0.25, "trimmed", 13),
        )
    ]


def table9() -> list[dict[str, Any]]:
    return [
        common("timing", "table9", {"trim.r": r}, run=f"{r}-{epochs}-{seed}", seed=seed)
        | {"method": method, "epochs": epochs, "hours": hours}
        for method, r, epochs, seed, hours in (
            ("full_ft", 1, 2, 0, 0.40),
            ("full_ft", 1, 2, 1, 0.44),
            ("trimllm", 1, 2, 0, 0.90),  # not TrimLLM, which updates a quarter
            ("trimllm", 0.25, 2, 0, 0.20),
            ("trimllm", 0.25, 2, 1, 0.22),
        )
    ]


def race(
    name: str,
    what: str,
    question: dict[str, Any],
    seconds: float,
    peer: tuple[str, float, float] | None = None,
    same: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A measurement of three turns; a peer is its name, its seconds in all and their factor."""
    base = more.get("base", "gemma-3-270m")
    about = {"blocks": 32 if base == "llama-shaped" else None, "threads": 2}
    cell = {"bench": name, "peer": peer and peer[0], **question, **about}
    cell = {k: v for k, v in cell.items() if v is not None} | {"processor": "Example CPU"}

    def turns(of: str, middle: float, peak: int, factor: float = 1) -> dict[str, Any]:
        return {
            f"{of}_seconds": middle,
            f"{of}_spread": round(0.25 * middle, 6),
            f"{of}_turns": [round(x * middle / factor, 6) for x in (1.15, 1.0, 0.9)],
            f"{of}_peak_bytes": peak,
        }

    run = "-".join(str(value) for value in (*list(cell.values())[:-2], base))
    row = common("bench", "bench", cell, **{"run": run, "row_sets": {}, **more})
    row |= {"bench": name, "what": what, "peer": None, **turns("ours", seconds, 2_000_000_000)}
    if peer:
        (_, middle, factor), peak = peer, 4_000_000_000
        row |= {"peer": peer[0], **turns("peer", middle, peak, factor), "peer_factor": factor}
        row |= {"ratio": middle / seconds, "memory_ratio": 0.5}
    settings = question | {"model": base, "task": "sciq", "seed": 0} | about
    return row | {"same": same or {}, "settings": settings}


def bench() -> list[dict[str, Any]]:
    scores = "log-likelihood of every choice"
    same = {"largest_relative_difference": 2e-6, "items": 100, "same_predictions": 100}
    small = same | {"items": 10, "same_predictions": 10}
    epoch = {"r": 0.25, "batch_size": 16}
    rows = [
        race("score", scores, {"rows": 100}, 5.0, ("lm-eval", 60.0, 1), same),
        # fewer rows are another question
        race("score", scores, {"rows": 10}, 0.5, ("lm-eval", 4.0, 1), small),
        race(
            "scan",
            "scores of all 36 sublayers",
            {"rows": 50},
            40.0,
            ("lm-eval", 840.0, 6),
            {"accuracies": [[80.0, 80.0]] * 6, "same_accuracies": 6},
            git_commit="43adcf325942-dirty",
        ),
        race("train", "one training epoch", {"rows": 64, **epoch}, 10.0, ("trainer", 30.0, 1)),
        race("decode", "decoding 32 tokens", {"new_tokens": 32}, 2.0, ("full", 3.0, 1)),
        # nobody took part in this one
        race("prefill", "reading 512 tokens", {"prompt_tokens": 512}, 0.8),
    ]

    def growth(axis: str, value: float, seconds: float, **held: Any) -> dict[str, Any]:
        what = "epoch" if axis == "r" else "scan"
        return race("growth", what, {"axis": axis, "value": value, **held}, seconds)

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
    rows.append(race("score", scores, {"rows": 100}, 4.0, ("lm-eval", 20.0, 1), same, **llama))
    return rows


def figure4() -> list[dict[str, Any]]:
    """The two-step runs of Table 3, which are measured once for both."""
    cell = {"trim.scorer": "two_step", "data.task": "sciq"}
    order = ["3.mlp", "2.mlp", "1.attention", "1.mlp"]
    return [
        row
        for seed in (0, 1)
        for row in points(
            "figure4", cell, order, [80.0, 78.0, 76.0 - 6 * seed, 73.0, 66.0], seed=seed
        )
    ]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    papers = (table2, table3, figure3, figure4, table4, table5, table6, table7, table8, table9)
    for make in (*papers, bench):
        text = "".join(json.dumps(row) + "\n" for row in make())
        if make is table9:  # a process was killed while it wrote
            text += text.splitlines()[-1][:80]
        (FOLDER / f"{make.__name__}.jsonl").write_text(text)


if __name__ == "__main__":
    main()

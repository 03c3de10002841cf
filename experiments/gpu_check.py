"""What a machine with a GPU can show of trimlab, in order of worth and in a given time.

    python experiments/gpu_check.py --out check --data.root DIR --minutes 30

Parts, each in processes of its own and with a time limit:

    smoke      a tiny random model is trimmed on the GPU and on the CPU, in float32: same drops,
               same accuracies; and once in bf16
    tests      the tests that need a GPU, where there is a clone and pytest
    sciq       SmolLM2-135M on SciQ with the paper's schedule (gpu_sciq.yaml), several runs at once
    shape-7b   benchmarks of LLaMA-7B's shape against their peers; the weights are random

What is measured is on disk as soon as it is: records/*.jsonl, runs/*/record.jsonl, logs/. What ran,
passed, and was cut is in summary.json and summary.md, which are written after every step.

Exit codes: 0 done (cut short or not), 1 a check failed, 2 wrong input: no CUDA device, no rows.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from checking.files import copy_run, copy_runs
from checking.steps import Check, Step

from analysis.table_speed import GOALS, LLAMA_7B
from trimlab.records.rows import read_rows

EXPERIMENTS = Path(__file__).resolve().parent
TRIMLAB = (sys.executable, "-m", "trimlab.cli")
PROFILE = "smollm2-135m-full"

# In order of worth: benchmark, peer, and the option that `--rows` sets.
BENCHMARKS = (
    ("scan", "lm-eval", "--rows"),
    ("train", "trainer", "--rows"),
    ("decode", "full", "--new_tokens"),
    ("prefill", "full", "--prompt_tokens"),
    ("score", "lm-eval", "--rows"),
    ("run", "trainer", "--rows"),
)
# What one H100 is to reach beside the goals of the table of speed.
MORE_GOALS = {
    "scan": (("ours_seconds", "<=", 60.0),),
    "train": (("rates.share_of_matmul_rate", ">=", 0.4),),
}


# ---- parts --------------------------------------------------------------------------------------


def smoke(check: Check, seconds: float) -> None:
    """A tiny model on the CPU and on the device, in float32, and on the device in bf16."""
    from checking.tiny import letter_rows, tiny_model

    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        base, rows = tiny_model(Path(scratch) / "base"), letter_rows(Path(scratch) / "rows")
        fits = {"cpu": ("cpu", "32-true"), "device": (None, "32-true"), "bf16": (None, "bf16-true")}
        for name, (device, precision) in fits.items():
            folder = Path(scratch) / name
            command = [
                *(*TRIMLAB, "fit", "--recipe", "paper"),
                *("--model.base", base, "--data.task", "jsonl"),
                *("--data.root", rows, "--data.batch_size", 16, "--data.calibration_rows", 20),
                *("--data.dev_rows", 20, "--model.lr", 1e-3, "--trim.max_drops", 3),
                *("--trim.r", 0.5, "--run.full_depth", "false", "--run.speed", "false"),
                *("--run.dir", folder, "--trainer.devices", 1, "--trainer.precision", precision),
                *("--trainer.accelerator", device or check.options.accelerator),
            ]
            check.run(
                Step("smoke", f"smoke-{name}"),
                command,
                end - time.monotonic(),
                lambda folder=folder, name=name: copy_run(folder, check.out / "smoke" / name),
            )
    if all(step.state == "passed" for step in check.steps if step.part == "smoke"):
        found = same_drops(check.out / "smoke" / "cpu", check.out / "smoke" / "device")
        check.note(Step("smoke", "same-drops"), "failed" if found else "passed", *found)


def same_drops(cpu: Path, device: Path) -> list[str]:
    """Differences between two runs; accuracies may differ by one item, whose choices nearly tie."""
    ours, theirs = (read_rows(folder / "record.jsonl") for folder in (cpu, device))
    found = []
    if [row["history"] for row in ours] != [row["history"] for row in theirs]:
        found.append(f"drops {ours[-1]['history']} on the CPU, {theirs[-1]['history']} there")
    for a, b in zip(ours, theirs, strict=False):
        if abs(a["dev"] - b["dev"]) > 100 / a["dev_n"] + 1e-6:
            found.append(f"step {a['step']}: dev {a['dev']:.1f} on the CPU, {b['dev']:.1f} there")
    return found


def tests(check: Check, seconds: float) -> None:
    """The tests with the marker `gpu`."""
    folder = EXPERIMENTS.parent / "tests"
    files = [p for p in sorted(folder.rglob("test_*.py")) if "mark.gpu" in p.read_text()]
    step = Step("tests", "pytest-gpu")
    if not files or find_spec("pytest") is None or check.options.device != "cuda":
        check.note(step, "skipped", "there is no GPU, no pytest, or no test with the marker gpu")
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    check.run(step, [*command, "--rootdir", folder.parent, *files], seconds)


def sciq(check: Check, seconds: float) -> None:
    """The experiment gpu_sciq.yaml."""
    options, settings = check.options, list(check.options.set)
    if options.base is not None:
        base = Path(options.base)  # a folder, as in a bundle, or the name of a model
        settings.append(f"model.base={base.resolve() if base.is_dir() else options.base}")
    if options.device == "cpu":
        settings += ["trainer.accelerator=cpu", "trainer.precision=32-true"]
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *(*TRIMLAB, "sweep", EXPERIMENTS / "gpu_sciq.yaml", "--profile", PROFILE),
            *("--jobs", options.jobs, "--results", check.records, "--runs", scratch),
            *(() if options.root is None else ("--data.root", options.root)),
            *(() if options.rows is None else ("--limit", options.rows)),
            *(("--set", *settings) if settings else ()),
        ]
        step = Step("sciq", "sweep")
        check.run(step, command, seconds, lambda: copy_runs(Path(scratch), check.out / "runs"))
    if step.state in ("passed", "cut"):
        check.note(step, step.state, *_found(check.out / "runs"))


def shape_7b(check: Check, seconds: float) -> None:
    """The benchmarks of a shape, each with an equal share of the time that is left."""
    options, end = check.options, time.monotonic() + seconds
    for number, (name, peer, size) in enumerate(BENCHMARKS):
        step = Step("shape-7b", f"bench-{name}")
        if peer == "lm-eval" and find_spec("lm_eval") is None:
            peer, step.says = None, ["without its peer: lm-eval is not installed"]
        out = check.records / f"bench-{name}.jsonl"
        command = [
            *(*TRIMLAB, "bench", name, "--shape", options.shape, "--device", options.device),
            *("--dtype", "bfloat16" if options.device == "cuda" else "float32"),
            *(() if peer is None else ("--against", peer)),
            *(() if options.blocks is None else ("--blocks", options.blocks)),
            *(() if options.rows is None else (size, options.rows)),
            *(() if options.root is None else ("--data.root", options.root)),
            *("--json", "--out", out),
        ]
        left = end - time.monotonic()
        check.run(step, command, left / (len(BENCHMARKS) - number) if left > 0 else 0)
        if step.state != "skipped":
            check.note(step, step.state, *_goals(name, out))


# Part -> its share, at most, of the time that is left when it begins; the last one has all of it.
PARTS: dict[str, tuple[Callable[[Check, float], None], float]] = {
    "smoke": (smoke, 0.5),
    "tests": (tests, 0.3),
    "sciq": (sciq, 0.6),
    "shape-7b": (shape_7b, 1.0),
}


# ---- inside -------------------------------------------------------------------------------------


def _found(runs: Path) -> Iterator[str]:
    """What the runs of a sweep have come to, unfinished ones included."""
    for path in sorted(runs.glob("*/record.jsonl")):
        points = read_rows(path)
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        name = f"{config['trim']['scorer']}, r = {config['trim']['r']}"
        if points:
            last = points[-1]
            memory = 100 * last["layer_memory_ratio"]
            name += f": dev {last['dev']:.1f} % at {memory:.0f} % of the layer memory"
        summary = path.parent / "summary.json"
        results = json.loads(summary.read_text()) if summary.exists() else {}
        for model in ("untrimmed", "fine_tuned", "trimmed"):
            if accuracy := (results.get(model) or {}).get("accuracy"):
                name += f", {model} {accuracy:.1f} %"
        yield name


def _goals(name: str, path: Path) -> Iterator[str]:
    """The numbers in the record of a benchmark, beside the goals."""
    for row in read_rows(path):
        ratio = f", {row['ratio']:.2f} times {row['peer']}" if row.get("ratio") else ""
        yield f"{row['what']}: {row['ours_seconds']:.3g} s{ratio}"
        for where, sign, goal in _goals_of(name, row.get("peer")):
            value: Any = row
            for key in where.split("."):
                value = (value or {}).get(key)
            if value is not None:
                met = value >= goal if sign == ">=" else value <= goal
                yield f"goal {where} {sign} {goal:g}: {value:.3g}, {'met' if met else 'missed'}"


def _goals_of(name: str, peer: str | None) -> Iterator[tuple[str, str, float]]:
    """The goals of a benchmark against a peer: field of the record, least or most, value."""
    for goal in GOALS:
        if (goal.bench, goal.peer) == (name, peer) and LLAMA_7B in goal.faster:
            yield "ratio", ">=", goal.faster[LLAMA_7B]
            if LLAMA_7B in goal.memory:
                yield "memory_ratio", "<=", goal.memory[LLAMA_7B]
    yield from MORE_GOALS.get(name, ())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line, and refuses what cannot work with exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of records and summaries")
    parser.add_argument("--minutes", type=float, default=30.0, help="time for all parts together")
    parser.add_argument("--parts", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--data.root", dest="root", type=Path, help="folder of rows, else the hub")
    parser.add_argument("--base", help="base model of the part sciq, e.g. its folder in a bundle")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="runs at once in the part sciq; they share the GPU and the cores",
    )
    parser.add_argument("--set", nargs="+", default=[], help="overrides of the runs of sciq")
    parser.add_argument("--shape", default="llama-7b", help="shape of the benchmarks")
    parser.add_argument("--blocks", type=int, help="number of its blocks, to make it smaller")
    parser.add_argument("--rows", type=int, help="rehearse with so many rows, or tokens")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse")
    options = parser.parse_args(arguments)
    options.parts = [name for name in options.parts.split(",") if name]
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    if options.root is not None:
        if not options.root.is_dir():
            parser.error(f"--data.root {options.root} is no folder")
        options.root = options.root.resolve()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "torch finds no CUDA device here; to rehearse: --device cpu --rows 8 "
            "--shape smollm2-135m --blocks 2"
        )
    options.accelerator = "gpu" if options.device == "cuda" else "cpu"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; the exit code."""
    options = _options(arguments)
    check = Check(options.out, options.minutes, options)
    wanted = [name for name in PARTS if name in options.parts]
    for name in wanted:
        run, share = PARTS[name]
        run(check, (share if name != wanted[-1] else 1.0) * check.left())
    print((check.out / "summary.md").read_text())
    return 1 if any(step.state == "failed" for step in check.steps) else 0


if __name__ == "__main__":
    # a batch system that ends this script ends its processes with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())

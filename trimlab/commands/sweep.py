"""The runs of an experiment file: skips what is done, goes on where it was."""

import signal
import sys
from typing import Any

from trimlab.commands._quiet import quiet


def run(arguments: list[str]) -> None:
    """`trimlab sweep`: an experiment file, many runs, one record."""
    options = _parser().parse_args(arguments).as_dict()

    quiet()
    from rich.console import Console

    from trimlab.runs.plan import plan
    from trimlab.runs.sweep import Sweep

    planned = plan(
        options["experiment"],
        options["profile"],
        seeds=options["seeds"],
        limit=options["limit"],
        only=options["only"],
        settings=options["set"],
        data_root=options["data"]["root"],
    )
    sweep = Sweep(planned, options["results"], options["runs"], options["keep_models"])
    if options["dry_run"]:
        Console().print(sweep.table())
        return
    # without this, the present fit would outlive a terminated sweep and keep its folder locked
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = sweep()
    Console().print(sweep.table())
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(planned)} runs failed; see above")


def _parser() -> Any:
    from pathlib import Path

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab sweep",
        exit_on_error=False,
        description="Makes every run of an experiment that is not done yet, and appends what they "
        "find to results/<experiment>.jsonl. Give the same command again after a kill.",
    )
    parser.add_argument("experiment", type=Path, help="an experiment, e.g. experiments/table6.yaml")
    parser.add_argument("--profile", type=str, required=True, help="model and size of every run")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of every cell: 0, 1, ...")
    parser.add_argument(
        "--limit", type=int | None, help="rehearse with at most so many rows per set"
    )
    parser.add_argument(
        "--only",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        help="cells to run: `--only trim.r=1,0.5 data.task=sciq` keeps r = 1 and 0.5 on SciQ",
    )
    parser.add_argument(
        "--set",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        help="overrides of every run: `--set model.lr=5e-5 data.train_rows=500`",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records")
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep"), help="folder of the runs")
    parser.add_argument("--keep_models", action="store_true", help="keep models and checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="only show what is left to do")
    return parser

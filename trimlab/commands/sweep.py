"""The runs of an experiment file: skips what is done, goes on where it was."""

import signal
from inspect import signature
from threading import Event
from typing import Any

from trimlab.commands._quiet import quiet


def run(arguments: list[str]) -> None:
    """`trimlab sweep`: an experiment file, many runs, one record."""
    options = _parser().parse_args(arguments).as_dict()
    launcher = _launcher(options)

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
    sweep = Sweep(
        planned,
        options["results"],
        options["runs"],
        keep_models=options["keep_models"],
        launcher=launcher,
    )
    if options["dry_run"]:
        Console().print(sweep.table())
        return
    failed = sweep(stop=_stopped())
    Console().print(sweep.table())
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(planned)} runs failed; see above")


def _stopped() -> Event:
    """Set when the user or the system ends the sweep, which then ends its fits.

    They would outlive it otherwise, and keep their runs locked. The second signal is not waited
    for.
    """
    stop = Event()

    def handle(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handle)
    return stop


def _launcher(options: dict[str, Any]) -> Any:
    from trimlab.runs.launchers._launcher import launcher_class

    name = options["launcher"]
    return launcher_class(name)(jobs=options["jobs"], **(options.get(name) or {}))


def _parser() -> Any:
    from pathlib import Path

    from jsonargparse import ArgumentParser

    from trimlab.plugins import plugin_names
    from trimlab.runs.launchers._launcher import LAUNCHERS, launcher_class

    parser = ArgumentParser(
        prog="trimlab sweep",
        exit_on_error=False,
        description="Makes every run of an experiment that is not done yet, and appends what they "
        "find to results/<experiment>.jsonl. Give the same command again after a kill. The output "
        "of a run is in <runs>/<run>.log. Runs side by side slow each other down: make those whose "
        "times are compared (table1, table9, figure4) one at a time.",
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
    parser.add_argument(
        "--jobs",
        type=int | None,
        help="runs at the same time (default: 1 on this machine): each of N has one N-th of the "
        "CPU cores as threads, and one of the GPUs",
    )
    launchers = plugin_names(LAUNCHERS)
    parser.add_argument(
        "--launcher", default="local", help=f"where the runs are made: {', '.join(launchers)}"
    )
    for name in launchers:
        made = launcher_class(name)
        if signature(made).parameters.keys() - {"jobs"}:
            parser.add_class_arguments(made, name, skip={"jobs"})
    parser.add_argument("--dry-run", action="store_true", help="only show what is left to do")
    return parser

"""Crashes every scenario, resumes it and compares its end."""

import argparse
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.crashes.kills import RunIn, crash_states, kept, killed_after
from tests.crashes.scenarios import IN_ONE_PROCESS, IN_SEVERAL
from tests.crashes.snapshots import differences, snapshot
from tests.forked import Forked
from tests.tiny import letters_domain, tiny_folder


class Checker:
    """Resumes what a kill has left, and counts what came of it."""

    def __init__(self, run: RunIn, work: Path, expected: Mapping[str, Any]):
        self.run, self.work, self.expected = run, work, expected
        self.tried, self.killed, self.failures = 0, 0, list[str]()

    def check(self, folder: Path, name: str) -> None:
        """Resumes a run and compares its end; the folder is removed if all is well."""
        ended = Forked(self.run, folder).wait()
        if ended.code == 0:
            problem = ", ".join(differences(snapshot(folder), self.expected))
        else:
            problem = f"exit code {ended.code}: {ended.err.strip().splitlines()[-1:]}"
        self.tried += 1
        if problem:
            self.failures.append(f"{name}: {problem}")
            print(f"FAILED {self.failures[-1]}", flush=True)
        else:
            shutil.rmtree(folder)

    def check_states(self, states: Sequence[Path]) -> None:
        """Resumes from each of these states."""
        for number, state in enumerate(states):
            self.check(state, state.name)
            if number % 10 == 9:
                print(f"{number + 1} of {len(states)} states", flush=True)

    def check_kills(self, seed: int, seconds: float) -> None:
        """Kills a run, and those that resume it, at random moments, then lets one end."""
        generator, folder = random.Random(seed), self.work / f"kills-{seed}"
        for _ in range(generator.randint(1, 4)):
            self.killed += killed_after(self.run, folder, generator.uniform(0, seconds), generator)
        self.check(folder, f"random kills, seed {seed}")


def crash(name: str, work: Path, until: float, arguments: argparse.Namespace) -> int:
    """Crashes a scenario: first at all of its writes, then at random moments.

    Returns:
        Number of runs that did not end as the undisturbed one.
    """
    (work / "domain").mkdir()
    base, rows = tiny_folder(work), letters_domain(work / "domain" / "rows")
    run = (IN_ONE_PROCESS | IN_SEVERAL)[name](base, rows)
    run(work / "whole")  # in this process, whose children then have all imports done
    gc.collect()
    gc.freeze()  # a run collects behind every phase
    checker, start = Checker(run, work, snapshot(work / "whole")), time.monotonic()
    Forked(run, work / "again").wait()
    seconds = time.monotonic() - start
    checker.check(work / "again", "undisturbed")
    if name in IN_ONE_PROCESS:
        states = crash_states(run, work / "traced", work / "states")
        print(f"{name}: {len(states)} states in {work}", flush=True)
        if arguments.distinct:
            states = list({kept(state): state for state in states}.values())
        states = states[:: arguments.every]
        print(f"{name}: resuming from {len(states)} of them", flush=True)
        checker.check_states(states)
    seed = 0
    while time.monotonic() < until:
        checker.check_kills(seed, seconds)
        seed += 1
    survived = checker.tried - len(checker.failures)
    print(f"{name}: {survived} of {checker.tried} survived, with {checker.killed} random kills")
    return len(checker.failures)


def main() -> None:
    """Crashes scenario after scenario."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", nargs="+", default=[*IN_ONE_PROCESS, *IN_SEVERAL])
    parser.add_argument("--every", type=int, default=1, help="try each n-th state only")
    parser.add_argument(
        "--distinct", action="store_true", help="pass over states with other temporary files only"
    )
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    end, failed = time.monotonic() + 60 * arguments.minutes, 0
    for done, name in enumerate(arguments.only):
        share = (end - time.monotonic()) / (len(arguments.only) - done)
        work = Path(tempfile.mkdtemp(prefix=f"crashes-{name}-")).resolve()
        failed += crash(name, work, time.monotonic() + share, arguments)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

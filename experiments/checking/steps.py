"""Processes with a time limit, and the summary of what came of them."""

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GRACE = 20.0  # seconds between asking a process to end and killing it
COPY_EVERY = 10.0  # seconds between copies of what runs have written so far


@dataclass
class Step:
    """One process of a part.

    Attributes:
        part: The part.
        name: Its name, and that of its log.
        state: `passed`, `failed`, `cut` (ended at its time limit) or `skipped`; empty at first.
        seconds: How long it ran.
        command: What was run.
        says: What it found, or why it is not there; the last line of a failed one.
    """

    part: str
    name: str
    state: str = ""
    seconds: float = 0.0
    command: str = ""
    says: list[str] = field(default_factory=list)


class Check:
    """A check under way: its time, its steps and its folder.

    Args:
        out: The folder.
        minutes: The time.
        options: Options of the command line.
    """

    def __init__(self, out: Path, minutes: float, options: argparse.Namespace):
        self.options, self.out = options, out.resolve()
        # what is ended has some seconds to end in
        self.end = time.monotonic() + 60 * minutes - min(GRACE, 6 * minutes)
        self.machine = _machine()
        self.steps: list[Step] = []
        self.records = self.out / "records"
        for folder in (self.records, self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def run(
        self,
        step: Step,
        command: Sequence[object],
        seconds: float,
        watch: Callable[[], None] = lambda: None,
    ) -> Step:
        """Runs a process until it ends or its time is up, and notes how it ended.

        Args:
            step: What it is; its state is changed.
            command: The command.
            seconds: Time limit.
            watch: Called every some seconds, and after the end.
        """
        words = [str(word) for word in command]
        step.command = " ".join(words)
        if seconds <= 0:
            return self.note(step, "skipped", "no time was left")
        print(f"[{step.part}] {step.name}: at most {seconds:.0f} s", flush=True)
        log, start = self.out / "logs" / f"{step.name}.log", time.monotonic()
        with log.open("wb") as file:
            process = subprocess.Popen(
                words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = _wait(process, seconds, watch)
            finally:
                _end(process)
                watch()
        step.seconds = round(time.monotonic() - start, 1)
        if code == 0:
            return self.note(step, "passed")
        if code is None:
            return self.note(step, "cut", f"its {seconds:.0f} s were up")
        lines = log.read_text(errors="replace").strip().splitlines()
        return self.note(step, "failed", f"exit code {code}: {lines[-1] if lines else 'no output'}")

    def note(self, step: Step, state: str, *says: str) -> Step:
        """Adds a step to the summary, or changes one, and writes the summary."""
        step.state = state
        step.says += says
        if step not in self.steps:
            self.steps.append(step)
        print(f"[{step.part}] {step.name}: {state}", *says, sep="; ", flush=True)
        self.write()
        return step

    def write(self) -> None:
        """Writes summary.json and summary.md."""
        summary = {
            "options": {k: str(v) for k, v in vars(self.options).items()},
            "machine": self.machine,
            "failed": any(step.state == "failed" for step in self.steps),
            "steps": [asdict(step) for step in self.steps],
        }
        (self.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        lines = [f"# GPU check: {self.machine['device']}", ""]
        lines += ["| part | step | state | seconds | findings |", "|---|---|---|---|---|"]
        for s in self.steps:
            says = "; ".join(s.says).replace("|", "/")
            lines.append(f"| {s.part} | {s.name} | {s.state} | {s.seconds:.0f} | {says} |")
        (self.out / "summary.md").write_text("\n".join(lines) + "\n")


# ---- inside -------------------------------------------------------------------------------------


def _wait(
    process: subprocess.Popen[bytes], seconds: float, watch: Callable[[], None]
) -> int | None:
    """The exit code of a process, or None once its time is up."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            return process.wait(min(left, COPY_EVERY))
        except subprocess.TimeoutExpired:
            watch()
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that still runs, and its children."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


def _machine() -> dict[str, Any]:
    import torch

    from trimlab.records.provenance import provenance

    there = torch.cuda.is_available()
    return {"device": torch.cuda.get_device_name() if there else "CPU"} | provenance()

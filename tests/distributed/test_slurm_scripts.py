"""The scripts for Slurm: what they ask for, and what they run, with an `srun` that shows it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from trimlab.cli import main

SCRIPTS = sorted((REPOSITORY / "experiments" / "slurm").glob("*.sbatch"))
SHAPES = {"llama_7b_8gpus": "llama-7b", "llama_13b_2nodes": "llama-13b"}


def option(words: list[str], name: str, default: str = "") -> str:
    return words[words.index(name) + 1] if name in words else default


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_dry_run_starts_a_process_for_each_gpu_and_its_plan_fits(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    command = ["bash", str(script), "--data.root", "data/sciq"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, *words = shown.stdout.splitlines()
    assert first == "--kill-on-bad-exit=1" and words[:2] == ["trimlab", "fit"]

    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == option(words, "--trainer.devices")
    assert asked["nodes"] == option(words, "--trainer.num_nodes", "1")
    assert (REPOSITORY / option(words, "--config")).exists()

    arguments = [str(REPOSITORY / w) if w.startswith("experiments/") else w for w in words[2:]]
    base = arguments.index("--model.base")
    del arguments[base : base + 2]
    root = arguments.index("--data.root")
    del arguments[root : root + 2]
    plan = ["plan", "--shape", SHAPES[script.stem], "--machine", "h100", "--json", *arguments]
    with pytest.raises(SystemExit) as stop:
        main(plan)
    assert stop.value.code == 0
    row = json.loads(capsys.readouterr().out)
    assert row["processes"] == int(asked["nodes"]) * int(asked["ntasks-per-node"])
    assert row["strategy"] == option(words, "--trainer.strategy")
    assert row["fits"]

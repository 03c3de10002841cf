"""A real bundle: SmolLM2-135M and SciQ, real wheels, and an environment that trains with them."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DATA, REPOSITORY

# what a node of a computing centre lacks; small, and fetched from the user's index
LACKING = {"jsonargparse", "docstring_parser", "typeshed_client"}


def run(command: list[Any], **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more
    words = [str(word) for word in command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "sciq").exists(), reason=f"no benchmark rows in {DATA}")
def test_a_run_on_a_machine_without_an_index(tmp_path: Path) -> None:
    names = [f"{d.name}=={d.version}" for d in metadata.distributions() if d.name not in LACKING]
    (tmp_path / "have.txt").write_text("\n".join(names))
    made = run(
        [
            *(sys.executable, "-m", "trimlab.cli", "bundle", "--base", "smollm2-135m"),
            *("--dtype", "float16", "--tasks", "sciq", "--data.root", DATA),
            *("--have", tmp_path / "have.txt", "--out", tmp_path / "bundle"),
        ],
        PYTHONPATH=str(REPOSITORY),
    )
    if "no wheel of" in made.stderr:
        pytest.skip("the index cannot be reached")
    assert made.returncode == 0, made.stderr[-2000:]
    parts = list((tmp_path / "bundle").iterdir())
    assert all(part.stat().st_size <= 60e6 for part in parts)
    assert sum(part.stat().st_size for part in parts) < 300e6

    node = tmp_path / "node"  # an environment with the packages of this one
    assert run([sys.executable, "-m", "venv", node]).returncode == 0
    (packages,) = node.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = ["sh", tmp_path / "bundle" / "unbundle.sh", tmp_path / "there"]
    done = run(script, PYTHON=str(node / "bin" / "python"), PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr

    there = tmp_path / "there"
    assert list(there.glob("wheels/jsonargparse-*.whl"))
    fitted = run(
        [
            *(there / "env" / "bin" / "trimlab", "fit", "--data.task", "sciq"),
            *("--model.base", there / "models" / "smollm2-135m", "--data.root", there / "data"),
            *("--run.dir", there / "run", "--run.full_depth", "false", "--run.speed", "false"),
            *("--data.calibration_rows", 4, "--data.dev_rows", 4, "--data.test_rows", 4),
            *("--data.train_rows", 8, "--trim.max_drops", 2, "--trim.scorer", "bottom"),
        ],
        HF_HUB_OFFLINE="1",
    )
    assert fitted.returncode == 0, fitted.stderr[-2000:]
    assert (there / "run" / "summary.json").exists()

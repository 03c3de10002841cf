"""The real model on real rows: minutes, so `make test-slow`.

The rows are those of `conftest.DATA`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import DATA, REPOSITORY
from trimlab.data.domain import DomainData
from trimlab.data.splits import read_test_items
from trimlab.evaluation.answers import evaluate
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import read_rows
from trimlab.scanning.candidates import candidates
from trimlab.scanning.scan import scan

pytestmark = pytest.mark.slow
with_rows = pytest.mark.skipif(not (DATA / "sciq").exists(), reason=f"no benchmark rows in {DATA}")


@pytest.fixture
def threads() -> None:
    torch.set_num_threads(os.cpu_count() or 1)


@with_rows
def test_untrimmed_sciq(threads: None) -> None:
    """A rough trial outside this code base found 85.0 % on 200 items (standard error 2.5)."""
    model, tokenizer = load_model("gemma-3-270m")
    data = DomainData(tokenizer, "sciq", root=DATA)
    items = read_test_items(data.task, DATA, 200)
    score = evaluate(SublayerStack(model), data.evaluation_batches(items))
    assert score.n == 200
    assert abs(score.value - 85.0) < 3 * score.stderr


@with_rows
def test_scan_of_the_real_model_equals_separate_evaluations(threads: None) -> None:
    model, tokenizer = load_model("gemma-3-270m")
    stack = SublayerStack(model)
    data = DomainData(tokenizer, "sciq", root=DATA, calibration_rows=6, dev_rows=10)
    batches = data.calibration_batches()
    found = scan(stack, batches)
    assert found.accuracy is not None
    for candidate, accuracy in list(zip(candidates(stack), found.accuracy, strict=True))[::5]:
        with stack.bypass(*candidate):
            assert evaluate(stack, batches).value == accuracy, candidate


def test_the_quickstart(tmp_path: Path) -> None:
    """`make demo`: half of the layers in five steps, packed, better and faster than untrimmed."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from trimlab.cli import main; main()", "fit"),
            *("--config", str(REPOSITORY / "experiments" / "quickstart.yaml")),
            *("--run.dir", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "try next:" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    points = read_rows(tmp_path / "run" / "record.jsonl")
    assert len(points) == 6  # fine-tuned, and five steps of score, drop, heal
    trimmed, full = summary["trimmed"], summary["fine_tuned"]
    assert trimmed["tier"] == "T1"
    assert trimmed["layer_memory_ratio"] <= 0.5
    assert trimmed["n"] >= 600
    assert trimmed["tokens_per_second"] > 1.5 * trimmed["untrimmed_tokens_per_second"]
    assert all(point["peak_rss_bytes"] < 4 * 2**30 for point in points)
    untrimmed = summary["untrimmed"]
    assert trimmed["accuracy"] > untrimmed["accuracy"] + 2 * untrimmed["stderr"]
    chance = max(*(summary["heuristic_baselines"][name] for name in ("word_overlap", "majority")))
    assert full["accuracy"] > chance + 2 * full["stderr"]
    assert trimmed["accuracy"] > chance + 2 * trimmed["stderr"]

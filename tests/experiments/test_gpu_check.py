"""The check of a GPU machine: time limits, what stays when the time is up, exit codes."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DATA, REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"

# In place of trimlab: fits and benchmarks take no time, and a sweep never ends. FIT: accuracies of
# the fits that do not reach 60 %.
STUB = """
import json, pathlib, sys, time
verb, options = sys.argv[1], dict(zip(sys.argv[2:], sys.argv[3:]))

def write(path, row):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row) + "\\n" if isinstance(row, dict) else row)

def write_run(folder, accuracy):
    point = {"step": 0, "history": ["1.mlp"], "dev": accuracy, "dev_n": 20}
    write(folder / "record.jsonl", point | {"layer_memory_ratio": 0.75})
    write(folder / "config.yaml", {"trim": {"scorer": "two_step", "r": 0.25}})
    write(folder / "models" / "0.75" / "model.safetensors", "large")

if verb == "fit":
    folder = pathlib.Path(options["--run.dir"])
    write_run(folder, FIT.get(folder.name, 60.0))
elif verb == "sweep":
    write_run(pathlib.Path(options["--runs"]) / "abc", 91.0)
    time.sleep(600)
elif sys.argv[2] == "scan":
    row = {"what": "a scan", "ours_seconds": 40.0, "ratio": 12.0, "peer": "lm-eval"}
    write(options["--out"], row)
else:
    sys.exit(f"trimlab: no such thing: {sys.argv[2]}")
"""


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script, whose fits all have an accuracy of 60 %."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    module = importlib.import_module("gpu_check")
    stub = tmp_path / "stub.py"
    stub.write_text("FIT = {}\n" + STUB)
    monkeypatch.setattr(module, "TRIMLAB", (sys.executable, str(stub)))
    monkeypatch.setattr(module, "_options", _on_this_machine(module._options))
    return module


def _on_this_machine(options: Any) -> Any:
    return lambda arguments: options([*arguments, "--device", "cpu"])


def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


def states(out: Path) -> dict[str, str]:
    return {step["name"]: step["state"] for step in summary(out)["steps"]}


def test_same_drops_pass(check: Any, tmp_path: Path) -> None:
    assert check.main(["--out", str(tmp_path / "out"), "--parts", "smoke"]) == 0
    assert states(tmp_path / "out") == {
        "smoke-cpu": "passed",
        "smoke-device": "passed",
        "smoke-bf16": "passed",
        "same-drops": "passed",
    }
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_another_accuracy_on_the_device_fails_the_check(check: Any, tmp_path: Path) -> None:
    (tmp_path / "stub.py").write_text("FIT = {'device': 70.0}\n" + STUB)
    assert check.main(["--out", str(tmp_path / "out"), "--parts", "smoke"]) == 1
    (step,) = (s for s in summary(tmp_path / "out")["steps"] if s["name"] == "same-drops")
    assert step["state"] == "failed"
    assert step["says"] == ["step 0: dev 60.0 on the CPU, 70.0 there"]


@pytest.mark.parametrize(
    ("dev", "history", "same"),
    [
        (65.0, ["1.mlp"], True),  # one item of 20
        (70.0, ["1.mlp"], False),
        (60.0, ["2.mlp"], False),
    ],
)
def test_other_drops_and_accuracies_do_not(
    check: Any, tmp_path: Path, dev: float, history: list[str], same: bool
) -> None:
    point = {"step": 0, "history": ["1.mlp"], "dev": 60.0, "dev_n": 20}
    for name, row in (("cpu", point), ("gpu", point | {"dev": dev, "history": history})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.jsonl").write_text(json.dumps(row) + "\n")
    assert (check.same_drops(tmp_path / "cpu", tmp_path / "gpu") == []) == same


def test_what_is_cut_leaves_its_records(check: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert check.main(["--out", str(out), "--parts", "sciq", "--minutes", "0.06"]) == 0
    (step,) = summary(out)["steps"]
    assert step["state"] == "cut"
    assert "two_step, r = 0.25: dev 91.0 % at 75 % of the layer memory" in step["says"]
    assert (out / "runs" / "abc" / "record.jsonl").exists()
    assert not list(out.rglob("*.safetensors"))


def test_a_failed_benchmark_fails_the_check_and_no_other(check: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert check.main(["--out", str(out), "--parts", "shape-7b"]) == 1
    found = {step["name"]: step for step in summary(out)["steps"]}
    assert found["bench-scan"]["state"] == "passed"
    assert "goal ratio >= 20: 12, missed" in found["bench-scan"]["says"]
    assert "goal ours_seconds <= 60: 40, met" in found["bench-scan"]["says"]
    assert found["bench-train"]["state"] == "failed"
    assert "exit code 1: trimlab: no such thing: train" in found["bench-train"]["says"]
    assert "bench-train | failed" in (out / "summary.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--parts", "smoke,nowhere"], "no part nowhere"),
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--data.root", "nowhere"], "is no folder"),
        ([], "torch finds no CUDA device here"),
    ],
)
def test_wrong_input_is_2(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("gpu_check").main(["--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "sciq").exists(), reason=f"no benchmark rows in {DATA}")
def test_a_rehearsal_on_the_cpu(tmp_path: Path, base: Path) -> None:
    """All parts for real, with a tiny model and a shape of one block."""
    command = [
        *(sys.executable, str(EXPERIMENTS / "gpu_check.py"), "--device", "cpu"),
        *("--rows", "8", "--jobs", "2", "--base", str(base), "--data.root", str(DATA)),
        *("--shape", "smollm2-135m", "--blocks", "2", "--out", str(tmp_path / "out")),
        *("--minutes", "60", "--set", "trim.drops_per_step=3", "run.extra_metrics=false"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    found = states(tmp_path / "out")
    assert {state for name, state in found.items() if name != "pytest-gpu"} == {"passed"}
    assert {"smoke-device", "same-drops", "sweep", "bench-scan", "bench-run"} <= set(found)

"""A run on a file as people have it: one compressed table, columns by other names, some faults."""

import csv
import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from trimlab import cli


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Which letter a word begins with, answers one-based; one row is faulty."""
    words = sorted({a + b + c for a in "abcde" for b in "abcde" for c in "abcde"})
    path = tmp_path / "words.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "q", "first", "second", "key"])
        for number, word in enumerate(words):
            writer.writerow([number, f"letter of {word}", word[0], "x", 1])
        writer.writerow([999, "letter of nothing", "a", "a", 2])
    return path


def test_a_run_on_one_table_and_the_command_that_it_prints(
    table: Path, tmp_path: Path, tiny_folder: Any, capsys: pytest.CaptureFixture[str]
):
    options = {
        "data.columns": json.dumps(
            {"question": "q", "choices": ["first", "second"], "answer": "key"}
        ),
        "data.bad_rows": "skip",
        "data.answers": "one_based",
        "data.test_share": 0.2,
    }
    command = ["fit", "--model.base", tiny_folder(tmp_path), "--data.task", "jsonl"]
    command += ["--data.root", table, "--run.dir", tmp_path / "run"]
    command += ["--data.calibration_rows", 10, "--data.dev_rows", 10, "--data.train_rows", 16]
    command += ["--run.full_depth", "false", "--run.speed", "false", "--trim.progress", "false"]
    command += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    command += ["--trim.target_layer_memory", 0.8]
    for option, value in options.items():
        command += [f"--{option}", value]
    assert _run(*command) == 0
    shown = capsys.readouterr()
    notes = [line for line in shown.err.splitlines() if line.startswith("note: ")]
    skipped, share, column = notes[:3]
    assert "skipped 1 of 126 rows" in skipped
    assert "csv.gz:127: two of the choices are the same" in skipped
    assert "of the 125 rows of" in share and "are the test set" in share
    assert "column 'id' of" in column

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sum(summary["rows_read"].values()) == 126
    # the default recipe needs a fine-tuned model, with `run.full_depth false`, too
    assert summary["fine_tuned"]["optimizer_steps"] > 0
    (printed,) = re.findall(r"try next:  trimlab (.*)", shown.out)
    assert _run(*shlex.split(printed), "--json") == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["rows"] == summary["row_sets"]["test"]
    assert tested["value"] == pytest.approx(summary["trimmed"]["accuracy"])

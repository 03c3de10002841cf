"""Runs of several processes: the result of one, also after a kill and with another number."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import in_ranks
from trimlab import cli, ranks
from trimlab.algorithm import Trim
from trimlab.records.rows import read_rows

UNEVEN = ("--data.batch_size", "23", "--trainer.accumulate_grad_batches", "2")
Fit = Callable[..., list[Any]]


@pytest.fixture
def fit(base: Path, root: Path, tmp_path: Path) -> Fit:
    """`fit(n, folder, *options)` trims the tiny model in n processes, and gives their ends."""

    def arguments(n: int, folder: str, *options: str) -> list[str]:
        given = {
            "--model.base": base,
            "--model.lr": 0.01,
            "--data.task": "jsonl",
            "--data.root": root,
            "--data.calibration_rows": 15,
            "--data.dev_rows": 15,
            "--data.max_length": 64,
            "--trim.target_layer_memory": 0.5,
            "--trim.r": 0.5,
            "--trim.packable": "true",
            "--trim.progress": "false",
            "--run.dir": tmp_path / folder,
            "--run.speed": "false",
            "--run.full_depth": "false",
            "--trainer.accelerator": "cpu",
            "--trainer.devices": n,
            "--trainer.enable_progress_bar": "false",
        }
        return ["fit", *(str(x) for pair in given.items() for x in pair), *options]

    def start(
        n: int, folder: str, *options: str, before: Callable[[], object] | None = None
    ) -> list[Any]:
        def run() -> None:
            if before is not None:
                before()
            cli.main(arguments(n, folder, *options))

        return in_ranks(n, run)

    return start


def assert_same(one: Path, other: Path) -> None:
    """The same drops, decisions and dev scores, and weights that differ by rounding."""
    kept = (
        "step",
        "epoch",
        "optimizer_steps",
        "dropped",
        "trainable",
        "dev",
        "accepted",
        "finished",
    )
    rows = [
        [{k: row[k] for k in kept} for row in read_rows(f / "record.jsonl")] for f in (one, other)
    ]
    assert rows[0] == rows[1]
    first, second = (load_file(f / "models" / "0.5" / "model.safetensors") for f in (one, other))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-4, atol=1e-5)


def die_at_the_second_point() -> None:
    """Kills the second process where it reaches its second operating point."""
    reach = Trim.reach_operating_point

    def dying(self: Trim, *arguments: Any) -> Any:
        if len(self.points) == 1 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return reach(self, *arguments)

    Trim.reach_operating_point = dying


def test_two_processes_do_what_one_does(fit: Fit, tmp_path: Path) -> None:
    (one,) = fit(1, "one", *UNEVEN)
    assert one.code == 0, one.err
    ended = fit(2, "two", *UNEVEN)  # of the last batch, the second process has no item
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    assert "kept" not in ended[1].out and ended[1].err == ""  # said once
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (3, 2)])
def test_a_process_dies_and_another_number_goes_on(
    fit: Fit, tmp_path: Path, before: int, after: int
) -> None:
    assert fit(1, "whole", *UNEVEN)[0].code == 0
    ended = fit(before, "killed", *UNEVEN, before=die_at_the_second_point)
    assert ended[1].code == -signal.SIGKILL
    assert all(end.code == 1 for end in (ended[0], *ended[2:]))
    assert ended[0].err.splitlines()[-1].startswith("trimlab: another process of the run has ended")
    assert len(read_rows(tmp_path / "killed" / "record.jsonl")) == 1
    ended = fit(after, "killed", *UNEVEN)
    assert [end.code for end in ended] == [0] * after, ended[0].err
    assert_same(tmp_path / "whole", tmp_path / "killed")

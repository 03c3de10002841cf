"""Runs of several processes: their command, and functions in processes forked from this one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from safetensors.torch import load_file

from tests.forked import Ended, Forked
from trimlab.records.rows import read_rows

# the last batch of an epoch has one item, which is not enough for all, and the only step has two
UNEVEN = ("--data.batch_size", "23", "--trainer.accumulate_grad_batches", "2")


def fit_arguments(base: Path, root: Path, folder: Path, n: int, *options: str) -> list[str]:
    """Arguments of `trimlab` that trim a tiny model to half of its layers in n processes."""
    given = {
        "--recipe": "paper",
        "--model.base": base,
        "--model.lr": 0.01,
        "--data.task": "jsonl",
        "--data.root": root,
        "--data.calibration_rows": 15,
        "--data.dev_rows": 15,
        "--trim.target_layer_memory": 0.5,
        "--trim.r": 0.5,
        "--trim.packable": "true",
        "--trim.progress": "false",
        "--run.dir": folder,
        "--run.speed": "false",
        "--run.full_depth": "false",
        "--trainer.accelerator": "cpu",
        "--trainer.devices": n,
        "--trainer.enable_progress_bar": "false",
    }
    return ["fit", *(str(x) for pair in given.items() for x in pair), *UNEVEN, *options]


def in_ranks(n: int, function: Callable[[], Any]) -> list[Ended]:
    """Calls a function in each process of a run of several, as a scheduler would start them."""
    port = str(find_free_network_port())

    def call(rank: int) -> None:
        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        function()

    return [child.wait() for child in [Forked(call, rank) for rank in range(n)]]


def assert_same_run(one: Path, other: Path) -> None:
    """The same drops, decisions and dev scores, and weights that differ by rounding."""
    kept = ("step", "epoch", "optimizer_steps", "dropped", "trainable", "dev", "finished")
    points = [read_rows(folder / "record.jsonl") for folder in (one, other)]
    first, second = ([{k: row[k] for k in kept} for row in rows] for rows in points)
    assert first == second
    assert (other / "report.html").exists()
    first, second = (load_file(f / "models" / "0.5" / "model.safetensors") for f in (one, other))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-4, atol=1e-5)

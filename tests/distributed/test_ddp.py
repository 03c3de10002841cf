"""Runs of several processes under DDP: the result of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import trimlab
from tests.ranks import in_ranks
from trimlab.records.rows import TIMING_FIELDS, read_rows


def trim(base: Path, root: Path, folder: Path, **options: Any) -> None:
    trainer = {"accelerator": "cpu", "enable_progress_bar": False} | options.pop("trainer", {})
    trimlab.trim(
        str(base),
        "jsonl",
        folder,
        model={"lr": 1e-2},
        data={"root": root, "calibration_rows": 15, "dev_rows": 15, "batch_size": 4},
        run={"full_depth": False, "speed": False} | options.pop("run", {}),
        trainer=trainer,
        **({"target_layer_memory": 0.5, "r": 0.5, "progress": False} | options),
    )


def choices(folder: Path) -> list[Any]:
    return [
        (row["dropped"], row["dev"], row["trainable"]) for row in read_rows(folder / "record.jsonl")
    ]


def assert_same(folder: Path, other: Path) -> None:
    assert choices(folder) == choices(other)
    a, b = (load_file(f / "models" / "0.5" / "model.safetensors") for f in (folder, other))
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=1e-4, atol=1e-5)


def test_two_processes(base: Path, root: Path, tmp_path: Path) -> None:
    trim(base, root, tmp_path / "one")
    ended = in_ranks(2, lambda: trim(base, root, tmp_path / "two", trainer={"devices": 2}))
    assert [e.code for e in ended] == [0, 0], ended[0].err + ended[1].err
    assert_same(tmp_path / "one", tmp_path / "two")

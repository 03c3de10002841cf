"""Machines: rates, and the time of operations."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from trimlab.errors import InputError
from trimlab.planning import calibration
from trimlab.planning.calibration import this_machine
from trimlab.planning.machine import Machine, load_machine, machine_names
from trimlab.planning.tracing import Op


def test_this_machine_is_that_of_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not this_machine("auto").cuda
    with pytest.raises(InputError, match="trainer.accelerator gpu: this machine has no GPU"):
        this_machine("gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1, 2**30))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert this_machine("cpu").cuda is False
    assert this_machine("auto").name == this_machine("gpu").name == "a GPU"


def test_products_that_differ_little_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    monkeypatch.setattr(calibration, "_rate", lambda op, *_rest: measured.append(op.key) or 1e9)
    rows = [64, 100, 130, 500]
    ops = [Op(("mm", (n, 2), (2, 3)), 12 * n, 0) for n in rows]
    other = Op(("mm", (64, 2), (2, 5)), 1, 0)
    device = torch.device("cpu")
    rates = calibration.product_rates([*ops, other, Op(("add",), 0, 9)], device, torch.float32)
    assert measured == [ops[0].key, ops[2].key, ops[3].key, other.key] == list(rates)


def test_time_is_that_of_the_slowest_resource() -> None:
    machine = Machine("m", 1, matrix_rate=100.0, bandwidth=10.0, launch=0.5, efficiency=1.0)
    assert machine.seconds({Op(("mm",), 200, 10): 2}) == 4.0  # type: ignore[arg-type]
    assert machine.seconds({Op(("add",), 0, 30): 1}) == 3.0  # type: ignore[arg-type]
    assert machine.seconds({Op(("add",), 0, 1): 3}) == 1.5  # type: ignore[arg-type]
    shape = ("mm", (4, 2), (2, 2))
    faster = replace(machine, rates={shape: 400.0})
    assert faster.seconds({Op(shape, 800, 10): 1}) == 2.0  # type: ignore[arg-type]
    other = ("mm", (8, 2), (2, 2))  # other rows: the same product nearest to it
    assert faster.seconds({Op(other, 1600, 10): 1}) == 4.0  # type: ignore[arg-type]
    # a bias stands before the operands: neither its width nor another weight decides
    near, far, wrong = (
        ("addmm", (3,), (7, 2), (2, 3)),
        ("addmm", (3,), (90, 2), (2, 3)),
        ("addmm", (5,), (8, 4), (4, 5)),
    )
    biased = replace(machine, rates={wrong: 1.0, far: 2.0, near: 400.0})
    asked = ("addmm", (3,), (8, 2), (2, 3))
    assert biased.seconds({Op(asked, 800, 10): 1}) == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize("name", machine_names())
def test_machines(name: str) -> None:
    machine = load_machine(name)
    assert machine.name == name
    assert machine.memory > 2**30 and machine.matrix_rate > 1e12 and machine.bandwidth > 1e11

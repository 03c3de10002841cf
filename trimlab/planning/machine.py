"""Machines: what they hold, and how long an operation takes on them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from trimlab.planning.tracing import Op, OpKey
from trimlab.plugins import hyphenated_module, hyphenated_names

MACHINES = "trimlab.planning.machines"
CONTEXT = 600 * 2**20  # of a CUDA process: context, kernels, workspaces of cuBLAS

Rates = Mapping[OpKey, float]  # FLOP/s by product


@dataclass(frozen=True)
class Machine:
    """A device by its rates. The time of an operation is the longest of three.

    Attributes:
        name: Its name.
        memory: Bytes of memory.
        matrix_rate: FLOP/s of matrix products: a data sheet's dense bf16, or measured.
        bandwidth: Bytes per second between memory and the processor.
        cuda: Whether it is a CUDA device. A CPU works in main memory, beside the process itself.
        base: Bytes that a process takes before a model is loaded.
        launch: Seconds that an operation takes at least.
        efficiency: Share of the rates that operations reach.
        threads: Threads of a CPU.
        rates: Measured rates of the products of training steps.
        scan_rates: Those of passes without gradients.
        here: Whether it is the machine of this process, whose rates can be measured.
    """

    name: str
    memory: int
    matrix_rate: float
    bandwidth: float
    cuda: bool = True
    base: int = CONTEXT
    launch: float = 5e-6
    efficiency: float = 0.65
    threads: int = 1
    rates: Rates = field(default_factory=dict)
    scan_rates: Rates = field(default_factory=dict)
    here: bool = False

    def seconds(self, ops: Counter[Op], rates: Rates | None = None) -> float:
        """Time of operations.

        Args:
            ops: How often each of them runs.
            rates: Measured rates of products; by default those of training steps.
        """
        rates = self.rates if rates is None else rates
        return sum(count * self._seconds(op, rates) for op, count in ops.items())

    def _seconds(self, op: Op, rates: Rates) -> float:
        """Time of an operation: its arithmetic, its memory traffic or its launch."""
        if op.flops and (rate := measured_rate(op.key, rates)) is not None:
            return max(op.flops / rate, self.launch)  # traffic is part of a measured rate
        arithmetic = op.flops / (self.matrix_rate * self.efficiency)
        return max(arithmetic, op.bytes / (self.bandwidth * self.efficiency), self.launch)


def measured_rate(key: OpKey, rates: Rates, factor: float = math.inf) -> float | None:
    """The measured rate of a product, or of the same one with the nearest number of rows.

    Args:
        key: The product.
        rates: Measured rates.
        factor: Most by which the rows may differ.
    """
    if not rates or key in rates:
        return rates.get(key)
    rows, product = _rows(key)
    alike = {other: abs(_rows(other)[0] - rows) for other in rates if _rows(other)[1] == product}
    nearest = min(alike, key=alike.__getitem__, default=None)
    if nearest is None or not 1 / factor <= _rows(nearest)[0] / rows <= factor:
        return None
    return rates[nearest]


def _rows(key: OpKey) -> tuple[int, OpKey]:
    """The rows of a product, and what it is apart from them; of an attention, its tokens."""
    name, *operands = key
    if "scaled_dot_product" in name:
        items, _, length, _ = operands[0]
        return items * length, (name,)
    *_, a, b = operands  # a bias may stand before them
    return math.prod(a[:-1]), (name, b)


def machine_names() -> list[str]:
    """Names of the machines."""
    return hyphenated_names(MACHINES)


def load_machine(name: str) -> Machine:
    """A machine by name.

    Args:
        name: One of `machine_names()`.

    Raises:
        InputError: There is no such machine.
    """
    hint = "; without --machine the plan is for this one"
    return hyphenated_module(MACHINES, name, "machine", hint).MACHINE

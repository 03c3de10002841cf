"""This machine, measured in a few seconds: the rates of a model's own products, and bandwidth."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trimlab.errors import InputError
from trimlab.evaluation.speed import fastest_seconds
from trimlab.memory import give_back_memory, main_memory, resident_memory
from trimlab.planning.machine import CONTEXT, Machine, measured_rate
from trimlab.planning.tracing import Op, OpKey

MAX_FLOPS = 5e9  # a larger product is measured with fewer rows
REPEATS = 3
ALIKE = 2.0  # products whose rows differ by no more than this factor have the same rate
TRAFFIC = 6 * 2**20  # bytes of the tensors that bandwidth is measured with, as activations have


def this_machine(accelerator: str = "auto") -> Machine:
    """The GPU if there is one, or else the CPU, without rates.

    Args:
        accelerator: `trainer.accelerator`.

    Raises:
        InputError: A GPU is asked for and there is none.
    """
    asked = accelerator in ("gpu", "cuda")
    if asked and not torch.cuda.is_available():
        raise InputError(
            f"trainer.accelerator {accelerator}: this machine has no GPU that can be used; "
            "name another machine with --machine"
        )
    if asked or (accelerator == "auto" and torch.cuda.is_available()):
        _free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Machine(name, total, 1.0, 1.0, base=CONTEXT, efficiency=1.0, here=True)
    return Machine(
        "this machine",
        main_memory(),
        1.0,
        1.0,
        cuda=False,
        base=resident_memory(),
        launch=8e-6,
        efficiency=1.0,
        threads=torch.get_num_threads(),
        here=True,
    )


def device_of(machine: Machine) -> torch.device:
    """Where a machine's work is measured."""
    return torch.device("cuda" if machine.cuda else "cpu")


def product_rates(
    ops: Iterable[Op], device: torch.device, dtype: torch.dtype, *, workers: int = 0
) -> dict[OpKey, float]:
    """Measures the FLOP/s of products, one of those that differ by less than half in their rows.

    Args:
        ops: Operations; those without arithmetic are left out.
        device: Where they run.
        dtype: Type of their operands.
        workers: On a CPU, measure as many at once, each with its share of the threads and with
            oneDNN's layout of weights, as scans do; 0: one with all threads.
    """
    found: dict[OpKey, float] = {}
    for op in ops:
        if op.flops and measured_rate(op.key, found, ALIKE) is None:
            found[op.key] = _rate(op, device, dtype, workers)
    return found


def bandwidth(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes per second of an addition whose result is new memory."""
    n = (TRAFFIC if device.type == "cpu" else 64 * TRAFFIC) // dtype.itemsize
    x, y = (torch.ones(n, dtype=dtype, device=device) for _ in range(2))
    return 3 * n * dtype.itemsize / _seconds(lambda: x + y, device, repeats=9)


# ---- inside ------------------------------------------------------------------------------------


def _rate(op: Op, device: torch.device, dtype: torch.dtype, workers: int) -> float:
    name, *shapes = op.key
    if "scaled_dot_product" in name:
        work = _attention(shapes, device, dtype, "backward" in name)
        return _measured(op.flops, work, device, workers)
    *_, a, b = shapes
    rows, flops = a[-2], op.flops
    while flops > MAX_FLOPS and rows > 64:
        rows, flops = rows // 2, flops / 2
    a = (*a[:-2], rows, a[-1])
    x = torch.ones(a, device=device, dtype=dtype)
    weight = torch.ones((*b[:-2], b[-1], b[-2]), device=device, dtype=dtype)
    if workers and device.type == "cpu" and dtype == torch.float32 and len(a) == 2:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
        product = torch.ops.mkldnn._linear_pointwise
        return _measured(flops, lambda: product(x, laid_out, None, "none", [], ""), device, workers)
    transposed = weight.transpose(-1, -2)
    return _measured(flops, lambda: x @ transposed, device, workers)


def _attention(
    shapes: list[tuple[int, ...]], device: torch.device, dtype: torch.dtype, backward: bool
) -> Callable[[], object]:
    if backward:
        shapes = shapes[1:4]
    query, key, value = (
        torch.ones(shape, device=device, dtype=dtype, requires_grad=backward)
        for shape in shapes[:3]
    )
    mask, grouped = None, query.shape[1] != key.shape[1]
    if len(shapes) > 3:
        mask = torch.zeros(shapes[3], device=device, dtype=dtype)

    def forward() -> Tensor:
        return scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, enable_gqa=grouped
        )

    if not backward:
        return forward
    out = forward()
    gradient = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, [query, key, value], gradient, retain_graph=True)


def _measured(
    flops: float, work: Callable[[], object], device: torch.device, workers: int
) -> float:
    if workers < 2 or device.type != "cpu":
        return flops / _seconds(work, device)
    with _threads(workers) as pool:
        list(pool.map(lambda _: work(), range(workers)))  # warms up every thread

        def all_at_once() -> None:
            list(pool.map(lambda _: work(), range(workers)))

        return workers * flops / _seconds(all_at_once, device)


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Least time of some calls, after one for warming up: other load only adds to it."""
    seconds = fastest_seconds(work, device, repeats)
    give_back_memory()
    return seconds


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share torch's threads, as `trimlab.cpu.workers` has them."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)
    )
    try:
        with pool:
            yield pool
    finally:
        torch.set_num_threads(threads)

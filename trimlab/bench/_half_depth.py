"""A model with half of its sublayers against the whole model."""

from collections.abc import Callable

from transformers import PreTrainedModel

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._model import load_on_device
from trimlab.bench._timing import Turns
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject


def time_half_depth(
    benchmark: Benchmark, base: str, prepare: Callable[[PreTrainedModel], Callable[[], None]]
) -> tuple[Turns, Turns | None, JsonObject]:
    """Times a model without every other block, and the whole model if there is a peer.

    Which sublayers are dropped does not change the time. Only one of the two models is in memory.

    Args:
        benchmark: The benchmark.
        base: The model.
        prepare: Makes one turn of a model; not timed.

    Returns:
        Turns of the half model, turns of the whole model, and the memory ratios of the half model.
    """
    memory_ratios: JsonObject = {}

    def half() -> Callable[[], None]:
        stack = SublayerStack(load_on_device(base)[0])
        stack.drop(*[sublayer for sublayer in stack if sublayer.block % 2])
        memory_ratios["layer_memory_ratio"] = stack.layer_memory_ratio
        memory_ratios["model_memory_ratio"] = stack.model_memory_ratio
        return prepare(stack.model.eval())

    def full() -> Callable[[], None]:
        return prepare(load_on_device(base)[0].eval())

    return *benchmark.time(half, full if benchmark.against else None), memory_ratios

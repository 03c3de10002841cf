"""Inference of a model made cheaper by some methods, each against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._methods._method import Method, load_method
from trimlab.bench._result import BenchmarkResult
from trimlab.bench._timing import BenchmarkCandidate, Turns, time_alternately
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject

FIRST = "pairs"  # the method of all records that name none
FULL = "full"


class InferenceBenchmark(Benchmark):
    """A benchmark of inference at batch size 1.

    All methods and the whole model, the peer `full`, take turns in one run, one result for each
    method. The methods:

    - `pairs`: half of the layer memory, every other block dropped (which ones does not matter)
    - `mostly_mlps`: half of the layer memory, five MLPs dropped for each attention
    - `llm_int8`: all layers in eight bits (bitsandbytes)
    - `int4`: all layers in four bits (bitsandbytes, NF4)
    - `sparse24`: all layers with 2:4 sparsity (NVIDIA GPUs, bfloat16)

    Args:
        methods: Names of the methods.
        **common: Options of every benchmark.

    Raises:
        InputError: There is no such method, it is named twice, or it has no kernels for the device
            and the type of the weights.
    """

    peers = (FULL,)

    def __init__(self, methods: tuple[str, ...] = (FIRST,), **common: Any):
        super().__init__(**common)
        if not methods or len(set(methods)) < len(methods):
            raise InputError("--methods: name each method once, and one at least")
        self.methods = {name: load_method(name) for name in methods}
        for method in self.methods.values():
            method.check(self.model.device, self.model.dtype)

    def time_methods(
        self,
        what: str,
        prepare: Callable[[PreTrainedModel], Callable[[], None]],
        tokens: int,
        workload: JsonObject,
    ) -> Iterator[BenchmarkResult]:
        """Times every method, and the whole model if it is the peer. One model is in memory.

        Args:
            what: Description of the timed work.
            prepare: Makes one turn of a model; not timed.
            tokens: Tokens that a turn reads or generates.
            workload: Size of the work.
        """
        sizes: dict[str, JsonObject] = {}

        def candidate(name: str, method: Method | None) -> BenchmarkCandidate:
            def prepared() -> Callable[[], None]:
                stack = SublayerStack(self.model.load_alone().eval())
                if method is not None:
                    method.apply(stack)
                sizes[name] = _sizes(stack)
                return prepare(stack.model)

            return prepared

        candidates = {name: candidate(name, method) for name, method in self.methods.items()}
        repeats = dict.fromkeys(candidates, self.repeats["ours"])
        if self.against:
            candidates[FULL] = candidate(FULL, None)
            repeats[FULL] = self.repeats["peer"]
        turns = time_alternately(candidates, repeats)
        for name, method in self.methods.items():
            settings = sizes[name] | {"method": name, "title": method.title}
            if FULL in sizes:
                settings["peer_weight_bytes"] = sizes[FULL]["weight_bytes"]
            yield BenchmarkResult(
                what=what if name == FIRST else f"{what}, {method.title}",
                ours=turns[name],
                theirs=turns.get(FULL),
                peer=self.against,
                workload=workload | ({} if name == FIRST else {"method": name}),
                settings=settings,
                rates=_rates(tokens, turns[name], turns.get(FULL)),
            )


def _rates(tokens: int, ours: Turns, theirs: Turns | None) -> JsonObject:
    rates: JsonObject = {}
    for side, turns in (("ours", ours), ("peer", theirs)):
        if turns is not None:
            rates[f"{side}_tokens_per_second"] = tokens / turns.median
            rates[f"{side}_ms_per_token"] = 1000 * turns.median / tokens
    return rates


def _sizes(stack: SublayerStack) -> JsonObject:
    return {
        "layer_memory_ratio": stack.layer_memory_ratio,
        "model_memory_ratio": stack.model_memory_ratio,
        "weight_bytes": weight_bytes(stack.model),
    }


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers as they are stored: packed ones, and their scales."""
    found: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in _stored(tensor):
            found[id(part)] = part  # tied weights count once
    return sum(part.numel() * part.element_size() for part in found.values())


def _stored(tensor: Any) -> Iterator[Tensor]:
    if is_traceable_wrapper_subclass(tensor):  # sparse: values and indices
        names, _ = tensor.__tensor_flatten__()
        yield from (getattr(tensor, name) for name in names)
        return
    yield tensor
    scales = getattr(tensor, "quant_state", None) or getattr(tensor, "SCB", None)
    if isinstance(scales, torch.Tensor):  # eight bits
        yield scales
    elif scales is not None:  # four bits
        yield scales.absmax

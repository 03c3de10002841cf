"""Inference of a model made cheaper by some methods, each against the whole model."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._engines import TRANSFORMERS, ExportedModels, check_engine
from trimlab.bench._limits import Limit, cache_bytes, weight_bytes
from trimlab.bench._methods._method import Method, load_method
from trimlab.bench._result import BenchmarkResult
from trimlab.bench._timing import BenchmarkCandidate, Turns, time_alternately
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject

FIRST = "pairs"  # the method of all records that name none
FULL = "full"


# sizes that a row holds of the peer, too
SIDES = {"weight_bytes", "cache_bytes_per_token", "bytes_per_token", "flops_per_token"}


@dataclass(frozen=True)
class Work:
    """The work of a turn.

    Attributes:
        what: Description.
        tokens: Tokens that are read or generated.
        workload: Its size.
        limit: What bounds its speed.
    """

    what: str
    tokens: int
    workload: JsonObject
    limit: Limit


class InferenceBenchmark(Benchmark):
    """A benchmark of inference at batch size 1.

    All methods and the whole model, the peer `full`, take turns in one run, one result for each
    method. The methods:

    - `pairs`: half of the layer memory, every other block dropped (which ones does not matter)
    - `built`: a model built with as many blocks, random weights: what `pairs` can reach at best
    - `mostly_mlps`: half of the layer memory, five MLPs dropped for each attention
    - `llm_int8`: all layers in eight bits (bitsandbytes)
    - `int4`: all layers in four bits (bitsandbytes, NF4)
    - `sparse24`: all layers with 2:4 sparsity (NVIDIA GPUs, bfloat16)

    `pairs+llm_int8` is one after the other.

    Args:
        methods: Names of the methods.
        engine: `transformers`, or an engine that runs exports of the models, the whole one's too:
            `llama.cpp`, `onnxruntime`, `openvino` or `vllm` (in its own environment). Exports are
            checked against their model before they are timed.
        export_dtype: Type of the exported weights, see `trimlab export`; by default the model's.
        **common: Options of every benchmark.

    Raises:
        InputError: There is no such method, it is named twice, or it has no kernels for the device
            and the type of the weights, or the engine cannot run it.
    """

    peers = (FULL,)

    def __init__(
        self,
        methods: tuple[str, ...] = (FIRST,),
        engine: str = TRANSFORMERS,
        export_dtype: str | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        if not methods or len(set(methods)) < len(methods):
            raise InputError("--methods: name each method once, and one at least")
        self.methods = {name: load_method(name) for name in methods}
        for method in self.methods.values():
            method.check(self.model.device, self.model.dtype)
        self.engine, self.export_dtype = engine, export_dtype
        check_engine(engine, export_dtype, self.model.device, self.methods)

    def time_methods(
        self, work: Work, prepare: Callable[[Any], Callable[[], None]]
    ) -> Iterator[BenchmarkResult]:
        """Times every method, and the whole model if it is the peer. One model is in memory.

        Args:
            work: The timed work.
            prepare: Makes one turn of a model, of transformers or of the engine; not timed.
        """
        sizes: dict[str, JsonObject] = {}
        with ExitStack() as held:
            exports = self._exports(held)

            def candidate(name: str, method: Method | None) -> BenchmarkCandidate:
                def prepared() -> Callable[[], None]:
                    if exports is not None:
                        if name not in sizes:
                            stack = self._stack(method)
                            stored = exports.write(name, stack, self.model.tokenizer)
                            sizes[name] = _sizes(stack, stored, work.limit)
                            del stack
                        return prepare(exports.load(name))
                    stack = self._stack(method)
                    sizes[name] = _sizes(stack, weight_bytes(stack.model), work.limit)
                    return prepare(stack.model)

                return prepared

            candidates = {name: candidate(name, method) for name, method in self.methods.items()}
            repeats = dict.fromkeys(candidates, self.repeats["ours"])
            if self.against:
                candidates[FULL] = candidate(FULL, None)
                repeats[FULL] = self.repeats["peer"]
            turns = time_alternately(candidates, repeats)
        for name in self.methods:
            yield self._result(name, work, turns, sizes)

    def _stack(self, method: Method | None) -> SublayerStack:
        stack = SublayerStack(self.model.load_alone().eval())
        return stack if method is None else method.apply(stack)

    def _exports(self, held: ExitStack) -> ExportedModels | None:
        """The models in the engine; None where the engine is transformers."""
        if self.engine == TRANSFORMERS:
            return None
        place = Path(held.enter_context(tempfile.TemporaryDirectory()))
        return held.enter_context(
            ExportedModels(self.engine, self.export_dtype, torch.get_num_threads(), place)
        )

    def _result(
        self, name: str, work: Work, turns: Mapping[str, Turns], sizes: Mapping[str, JsonObject]
    ) -> BenchmarkResult:
        method, cell = self.methods[name], dict(work.workload)
        # what earlier records do not name: the method `pairs` in transformers
        cell |= {} if name == FIRST else {"method": name}
        if self.engine != TRANSFORMERS:
            cell |= {"engine": self.engine, "export_dtype": self.export_dtype}
        settings = sizes[name] | {"method": name, "title": method.title, "engine": self.engine}
        rates = _rates("ours", work, turns[name], sizes[name])
        if FULL in turns:
            whole = {f"peer_{key}": value for key, value in sizes[FULL].items() if key in SIDES}
            settings |= whole
            rates |= _rates("peer", work, turns[FULL], sizes[FULL])
        rates[work.limit.name] = work.limit.rate
        return BenchmarkResult(
            what=work.what if name == FIRST else f"{work.what}, {method.title}",
            ours=turns[name],
            theirs=turns.get(FULL),
            peer=self.against,
            workload=cell,
            settings=settings,
            rates=rates,
        )


def _rates(side: str, work: Work, turns: Turns, sizes: JsonObject) -> JsonObject:
    """Rates of one side, and the share of what the device can do at most."""
    per_second, limit = work.tokens / turns.median, work.limit
    return {
        f"{side}_tokens_per_second": per_second,
        f"{side}_ms_per_token": 1000 / per_second,
        f"{side}_share_of_{limit.name}": per_second * sizes[f"{limit.unit}_per_token"] / limit.rate,
    }


def _sizes(stack: SublayerStack, stored: int, limit: Limit) -> JsonObject:
    return {
        "layer_memory_ratio": stack.layer_memory_ratio,
        "model_memory_ratio": stack.model_memory_ratio,
        "weight_bytes": stored,
        "cache_bytes_per_token": cache_bytes(stack),
        f"{limit.unit}_per_token": limit.work(stack, stored),
    }

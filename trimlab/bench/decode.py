"""Decoding speed of a model with half of its sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from transformers import PreTrainedModel

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._half_depth import time_half_depth
from trimlab.bench._result import BenchmarkResult
from trimlab.evaluation.speed import decode, read_prompt


class DecodeBenchmark(Benchmark):
    """Generates tokens one by one, with a KV cache, at batch size 1.

    Every other block is dropped; the time does not depend on which. The peer `full` is the whole
    model.

    Args:
        new_tokens: Tokens per turn.
        prompt_tokens: Tokens of the prompt, which is not timed.
    """

    peers = ("full",)
    tiny: ClassVar[dict[str, Any]] = {"new_tokens": 2, "prompt_tokens": 4}

    def __init__(self, new_tokens: int = 32, prompt_tokens: int = 32, **common: Any):
        super().__init__(**common)
        self.new_tokens, self.prompt_tokens = new_tokens, prompt_tokens

    def measure(self, base: str) -> Iterator[BenchmarkResult]:
        """Times all new tokens, without loading the model and reading the prompt."""

        def prepare(model: PreTrainedModel) -> Callable[[], None]:
            read = read_prompt(model, self.prompt_tokens)
            return lambda: decode(model, read, self.new_tokens)

        ours, theirs, memory_ratios = time_half_depth(self, base, prepare)
        yield BenchmarkResult(
            what=f"decoding {self.new_tokens} tokens",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            workload={"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens},
            settings=memory_ratios,
        )

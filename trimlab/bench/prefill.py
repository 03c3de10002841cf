"""Prefill of a prompt with half of the sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from transformers import PreTrainedModel

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._half_depth import time_half_depth
from trimlab.bench._result import BenchmarkResult
from trimlab.evaluation.speed import read_prompt


class PrefillBenchmark(Benchmark):
    """Reads one prompt at batch size 1; by default it is as long as the paper's in Table 1.

    Every other block is dropped; the time does not depend on which. The peer `full` is the whole
    model.

    Args:
        prompt_tokens: Tokens of the prompt.
    """

    peers = ("full",)
    tiny: ClassVar[dict[str, Any]] = {"prompt_tokens": 8}

    def __init__(self, prompt_tokens: int = 512, **common: Any):
        super().__init__(**common)
        self.prompt_tokens = prompt_tokens

    def measure(self, base: str) -> Iterator[BenchmarkResult]:
        """Times the forward pass of the prompt, until the first token."""

        def prepare(model: PreTrainedModel) -> Callable[[], None]:
            def run() -> None:
                read_prompt(model, self.prompt_tokens)

            run()  # the first pass of a model is slower
            return run

        ours, theirs, memory_ratios = time_half_depth(self, base, prepare)
        yield BenchmarkResult(
            what=f"reading {self.prompt_tokens} tokens",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            workload={"prompt_tokens": self.prompt_tokens},
            settings=memory_ratios,
        )

"""Prefill of a prompt with half of the sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from trimlab.bench._engines import after_prompt
from trimlab.bench._flops import matmul_rate
from trimlab.bench._inference import InferenceBenchmark, Work
from trimlab.bench._limits import Limit, prompt_flops
from trimlab.bench._result import BenchmarkResult
from trimlab.model.sublayers import SublayerStack


class PrefillBenchmark(InferenceBenchmark):
    """Reads one prompt at batch size 1; by default it is as long as the paper's in Table 1.

    By default every other block is dropped; the time does not depend on which. The peer `full` is
    the whole model. Other `--methods`: see `trimlab bench decode`. Rates say which share of the
    rate of a large matrix product was reached.

    Args:
        prompt_tokens: Tokens of the prompt.
    """

    tiny: ClassVar[dict[str, Any]] = {"prompt_tokens": 8}

    def __init__(self, prompt_tokens: int = 512, **common: Any):
        super().__init__(**common)
        self.prompt_tokens = prompt_tokens

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times the forward pass of the prompt, until the first token."""

        def prepare(model: Any) -> Callable[[], None]:
            def run() -> None:
                after_prompt(model, self.prompt_tokens)

            run()  # the first pass of a model is slower
            return run

        def work(stack: SublayerStack, _stored: int) -> float:
            return prompt_flops(stack, self.prompt_tokens) / self.prompt_tokens

        rate = matmul_rate(self.device, self.model.dtype)
        yield from self.time_methods(
            Work(
                f"reading {self.prompt_tokens} tokens",
                self.prompt_tokens,
                {"prompt_tokens": self.prompt_tokens},
                Limit("matmul_rate", "flops", rate, work),
            ),
            prepare,
        )

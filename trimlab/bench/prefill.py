"""Prefill of a prompt with half of the sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from transformers import PreTrainedModel

from trimlab.bench._inference import InferenceBenchmark
from trimlab.bench._result import BenchmarkResult
from trimlab.evaluation.speed import read_prompt


class PrefillBenchmark(InferenceBenchmark):
    """Reads one prompt at batch size 1; by default it is as long as the paper's in Table 1.

    By default every other block is dropped; the time does not depend on which. The peer `full` is
    the whole model. Other `--methods`: see `trimlab bench decode`.

    Args:
        prompt_tokens: Tokens of the prompt.
    """

    tiny: ClassVar[dict[str, Any]] = {"prompt_tokens": 8}

    def __init__(self, prompt_tokens: int = 512, **common: Any):
        super().__init__(**common)
        self.prompt_tokens = prompt_tokens

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times the forward pass of the prompt, until the first token."""

        def prepare(model: PreTrainedModel) -> Callable[[], None]:
            def run() -> None:
                read_prompt(model, self.prompt_tokens)

            run()  # the first pass of a model is slower
            return run

        workload: dict[str, Any] = {"prompt_tokens": self.prompt_tokens}
        what = f"reading {self.prompt_tokens} tokens"
        yield from self.time_methods(what, prepare, self.prompt_tokens, workload)

"""Decoding speed of a model with half of its sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from transformers import PreTrainedModel

from trimlab.bench._inference import InferenceBenchmark
from trimlab.bench._result import BenchmarkResult
from trimlab.evaluation.speed import decode, read_prompt


class DecodeBenchmark(InferenceBenchmark):
    """Generates tokens one by one, with a KV cache, at batch size 1.

    By default every other block is dropped; the time does not depend on which. The peer `full` is
    the whole model. With `--methods "[pairs,mostly_mlps,llm_int8,int4,sparse24]"` other splits and
    quantised or sparse models take turns with them (Table 1): `mostly_mlps` drops five MLPs for
    each attention, `llm_int8` and `int4` need bitsandbytes, `sparse24` an NVIDIA GPU.

    Args:
        new_tokens: Tokens per turn.
        prompt_tokens: Tokens of the prompt, which is not timed.
    """

    tiny: ClassVar[dict[str, Any]] = {"new_tokens": 2, "prompt_tokens": 4}

    def __init__(self, new_tokens: int = 32, prompt_tokens: int = 32, **common: Any):
        super().__init__(**common)
        self.new_tokens, self.prompt_tokens = new_tokens, prompt_tokens

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times all new tokens, without loading the model and reading the prompt."""

        def prepare(model: PreTrainedModel) -> Callable[[], None]:
            decode(model, read_prompt(model, self.prompt_tokens), 1)  # the first pass is slower
            read = read_prompt(model, self.prompt_tokens)
            return lambda: decode(model, read, self.new_tokens)

        workload = {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens}
        what = f"decoding {self.new_tokens} tokens"
        yield from self.time_methods(what, prepare, self.new_tokens, workload)

"""Decoding speed of a model with half of its sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from trimlab.bench._engines import after_prompt
from trimlab.bench._inference import InferenceBenchmark, Work
from trimlab.bench._limits import Limit, bytes_per_token, read_bandwidth
from trimlab.bench._result import BenchmarkResult
from trimlab.model.sublayers import SublayerStack


class DecodeBenchmark(InferenceBenchmark):
    """Generates tokens one by one, with a KV cache, at batch size 1.

    By default every other block is dropped; the time does not depend on which. The peer `full` is
    the whole model. With `--methods "[pairs,mostly_mlps,llm_int8,pairs+llm_int8,int4,sparse24]"`
    other splits and quantised or sparse models take turns with them (Table 1): `mostly_mlps` drops
    five MLPs for each attention, `llm_int8` and `int4` need bitsandbytes, `sparse24` an NVIDIA GPU.
    `built` is a model built with as few blocks as `pairs` leaves. Rates say which share of this
    machine's measured memory bandwidth was reached.

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

        def prepare(model: Any) -> Callable[[], None]:
            after_prompt(model, 2, 1)()  # the first passes are slower
            return after_prompt(model, self.prompt_tokens, self.new_tokens)

        def work(stack: SublayerStack, stored: int) -> float:
            return bytes_per_token(stack, stored, self.prompt_tokens + self.new_tokens / 2)

        yield from self.time_methods(
            Work(
                f"decoding {self.new_tokens} tokens",
                self.new_tokens,
                {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens},
                Limit("bandwidth", "bytes", read_bandwidth(self.device), work),
            ),
            prepare,
        )

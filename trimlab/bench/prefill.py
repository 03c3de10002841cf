"""Reading a prompt with half of the sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel

from trimlab.bench._benchmark import Bench, Measurement
from trimlab.bench.decode import race_halved
from trimlab.evaluation.speed import read_prompt


class Prefill(Bench):
    """Reads one prompt, as long as the paper's in Table 1, at batch size 1.

    The peer `full` is the model with all of its sublayers.

    Args:
        prompt_tokens: Tokens of the prompt.
    """

    peers = ("full",)

    def __init__(self, prompt_tokens: int = 512, **common: Any):
        super().__init__(**common)
        self.prompt_tokens = prompt_tokens

    def measure(self) -> Iterator[Measurement]:
        """Seconds until the first token."""

        def prepare(model: PreTrainedModel) -> Callable[[], None]:
            def run() -> None:
                read_prompt(model, self.prompt_tokens)

            run()  # the first pass of a model is slower
            return run

        own_turns, peer_turns, sizes = race_halved(self, prepare)
        yield Measurement(
            f"reading {self.prompt_tokens} tokens",
            own_turns,
            peer_turns,
            self.against,
            question={"prompt_tokens": self.prompt_tokens},
            settings=sizes,
        )

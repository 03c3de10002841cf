"""Reading a prompt with half of the sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel

from trimlab.bench import Bench, Measurement
from trimlab.bench.decode import halved, sizes_of
from trimlab.cost import read_prompt
from trimlab.results import Row
from trimlab.sublayers import SublayerStack


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
        sizes: Row = {}

        def ours() -> Callable[[], None]:
            stack = halved(SublayerStack(self.load()[0]))
            sizes.update(sizes_of(stack))
            return read(stack.model)

        def peer() -> Callable[[], None]:
            return read(self.load()[0])

        def read(model: PreTrainedModel) -> Callable[[], None]:
            read_prompt(model.eval(), self.prompt_tokens)  # the first pass of a model is slower

            def run() -> None:
                read_prompt(model, self.prompt_tokens)

            return run

        own_turns, peer_turns = self.race(ours, peer if self.against else None)
        yield Measurement(
            f"reading {self.prompt_tokens} tokens",
            own_turns,
            peer_turns,
            self.against,
            question={"prompt_tokens": self.prompt_tokens},
            settings=sizes,
        )

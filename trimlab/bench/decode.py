"""Decoding speed of a model with half of its sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel

from trimlab.bench import Bench, Measurement
from trimlab.cost import decode, read_prompt
from trimlab.results import Row
from trimlab.sublayers import SublayerStack


class Decode(Bench):
    """Generates tokens one by one, with a KV cache, at batch size 1.

    Which sublayers are gone does not matter for the time, so every other block is. The peer
    `full` is the model before that.

    Args:
        new_tokens: Tokens per turn.
        prompt_tokens: Tokens of the prompt, which is not timed.
    """

    peers = ("full",)

    def __init__(self, new_tokens: int = 32, prompt_tokens: int = 32, **common: Any):
        super().__init__(**common)
        self.new_tokens, self.prompt_tokens = new_tokens, prompt_tokens

    def measure(self) -> Iterator[Measurement]:
        """Seconds of all tokens; the model is there and has read the prompt."""
        sizes: Row = {}

        def ours() -> Callable[[], None]:
            stack = halved(SublayerStack(self.load()[0]))
            sizes.update(sizes_of(stack))
            return generate(stack.model)

        def peer() -> Callable[[], None]:
            return generate(self.load()[0])

        def generate(model: PreTrainedModel) -> Callable[[], None]:
            read = read_prompt(model.eval(), self.prompt_tokens)
            return lambda: decode(model, read, self.new_tokens)

        own_turns, peer_turns = self.race(ours, peer if self.against else None)
        yield Measurement(
            f"decoding {self.new_tokens} tokens",
            own_turns,
            peer_turns,
            self.against,
            question={"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens},
            settings=sizes,
        )


def halved(stack: SublayerStack) -> SublayerStack:
    """Drops every other block."""
    stack.drop(*[sublayer for sublayer in stack if sublayer.block % 2])
    return stack


def sizes_of(stack: SublayerStack) -> Row:
    """How much is left, for the record."""
    return {
        "layer_memory_ratio": stack.layer_memory_ratio,
        "model_memory_ratio": stack.model_memory_ratio,
    }

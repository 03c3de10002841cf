"""Decoding speed of a model with half of its sublayers, against the whole model."""

from collections.abc import Iterator
from typing import Any

from trimlab.bench import Bench, Measurement
from trimlab.cost import decode_seconds
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
        """Seconds per token."""
        full, _ = self.load()
        half, _ = self.load()
        stack = halved(SublayerStack(half))

        def turn(model: Any) -> Any:
            return lambda: lambda: decode_seconds(model, self.prompt_tokens, self.new_tokens)

        ours, peer = self.race(turn(half), turn(full) if self.against else None)
        yield Measurement(
            f"decoding {self.new_tokens} tokens",
            ours,
            peer,
            self.against,
            same={
                "seconds_per_token": ours.result,
                "peer_seconds_per_token": peer and peer.result,
            },
            question={"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens},
            settings={
                "layer_memory_ratio": stack.layer_memory_ratio,
                "model_memory_ratio": stack.model_memory_ratio,
            },
        )


def halved(stack: SublayerStack) -> SublayerStack:
    """Drops every other block."""
    stack.drop(*[sublayer for sublayer in stack if sublayer.block % 2])
    return stack

"""Decoding speed of a model with half of its sublayers, against the whole model."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel

from trimlab.bench._benchmark import Bench, Measurement
from trimlab.bench._timing import Turns
from trimlab.evaluation.speed import decode, read_prompt
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import Row


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

        def prepare(model: PreTrainedModel) -> Callable[[], None]:
            read = read_prompt(model, self.prompt_tokens)
            return lambda: decode(model, read, self.new_tokens)

        own_turns, peer_turns, sizes = race_halved(self, prepare)
        yield Measurement(
            f"decoding {self.new_tokens} tokens",
            own_turns,
            peer_turns,
            self.against,
            question={"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens},
            settings=sizes,
        )


def race_halved(
    bench: Bench, prepare: Callable[[PreTrainedModel], Callable[[], None]]
) -> tuple[Turns, Turns | None, Row]:
    """A model without every other block against the whole model; one of them is loaded at a time.

    Args:
        bench: Whose model, peer and turns.
        prepare: Makes a turn of a model; not timed.

    Returns:
        Our turns, the peer's, and how much of the model is left.
    """
    sizes: Row = {}

    def ours() -> Callable[[], None]:
        stack = SublayerStack(bench.load()[0])
        stack.drop(*[sublayer for sublayer in stack if sublayer.block % 2])
        sizes["layer_memory_ratio"] = stack.layer_memory_ratio
        sizes["model_memory_ratio"] = stack.model_memory_ratio
        return prepare(stack.model.eval())

    def peer() -> Callable[[], None]:
        return prepare(bench.load()[0].eval())

    return *bench.race(ours, peer if bench.against else None), sizes

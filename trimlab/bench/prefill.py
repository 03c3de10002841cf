"""Reading a prompt with half of the sublayers, against the whole model."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from trimlab.bench import Bench, Measurement
from trimlab.bench.decode import halved
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
        full, _ = self.load()
        half, _ = self.load()
        stack = halved(SublayerStack(half))
        prompt = torch.arange(self.prompt_tokens)[None] % full.config.vocab_size  # (1, T)

        def turn(model: PreTrainedModel) -> Any:
            @torch.inference_mode()
            def read() -> int:
                # the logits of the last position alone, as `generate` asks for them
                return int(model(prompt, logits_to_keep=1).logits.argmax())

            return lambda: read

        ours, peer = self.race(turn(half), turn(full) if self.against else None)
        yield Measurement(
            f"reading {self.prompt_tokens} tokens",
            ours,
            peer,
            self.against,
            question={"prompt_tokens": self.prompt_tokens},
            settings={
                "layer_memory_ratio": stack.layer_memory_ratio,
                "model_memory_ratio": stack.model_memory_ratio,
            },
        )

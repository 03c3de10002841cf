"""Greedy decoding with a KV cache, at batch size 1."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel


class ReadPrompt(NamedTuple):
    """A prompt and the model's output for it.

    Attributes:
        ids: Tokens of the prompt.  # (1, T)
        output: The model's output: logits of the last position and the KV cache.
    """

    ids: Tensor
    output: Any


@torch.inference_mode()
def read_prompt(model: PreTrainedModel, ids: Tensor) -> ReadPrompt:
    """Runs the model on a prompt.

    Args:
        model: The model, in evaluation mode.
        ids: Tokens of the prompt.  # (1, T)
    """
    return ReadPrompt(ids, model(input_ids=ids, use_cache=True, logits_to_keep=1))


@torch.inference_mode()
def greedy_tokens(model: PreTrainedModel, prompt: ReadPrompt) -> Iterator[Tensor]:
    """Generates the likeliest token again and again, without an end.

    Args:
        model: The model.
        prompt: The prompt and its output.

    Yields:
        The next token; the model runs on it when the one after it is asked for.  # (1, 1)
    """
    ids, output = prompt
    while True:
        token = output.logits[:, -1:].argmax(-1)  # (1, 1)
        yield token
        cache = output.past_key_values
        # a model without any attention has no cache and runs on the whole text
        ids = torch.cat([ids, token], dim=1) if cache is None else token
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

"""Latency and speed, measured."""

import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from trimlab.model.sublayers import evaluating


class Speed(NamedTuple):
    """Decoding speed of one model.

    Attributes:
        tokens_per_second: Median over the repeats, batch size 1, greedy, with a KV cache.
        spread: Interquartile range of the same.
    """

    tokens_per_second: float
    spread: float


def decode_latency_ms(model: PreTrainedModel, repeats: int = 5) -> float:
    """Median milliseconds per generated token, after a turn that does not count."""
    seconds = [decode_seconds(model) for _ in range(repeats + 1)]
    return 1000 * statistics.median(seconds[1:])


@torch.inference_mode()
def decode_seconds(model: PreTrainedModel, prompt_tokens: int = 32, new_tokens: int = 16) -> float:
    """Seconds per generated token, batch size 1, after the prompt has been read.

    Args:
        model: The model, in the state in which it is used.
        prompt_tokens: Length of the prompt (its tokens do not matter for the time).
        new_tokens: Tokens to generate.
    """
    with evaluating(model):
        read = read_prompt(model, prompt_tokens)
        synchronise(model.device)
        start = time.perf_counter()
        decode(model, read, new_tokens)
        synchronise(model.device)
        return (time.perf_counter() - start) / new_tokens


@torch.inference_mode()
def read_prompt(model: PreTrainedModel, tokens: int) -> Any:
    """The model's output for a prompt, its KV cache included."""
    prompt = torch.arange(tokens, device=model.device)[None] % model.config.vocab_size  # (1, T)
    return model(prompt, use_cache=True, logits_to_keep=1)


@torch.inference_mode()
def decode(model: PreTrainedModel, output: Any, new_tokens: int) -> None:
    """Generates tokens one by one behind what the model has read.

    Args:
        model: The model.
        output: What it made of the prompt.
        new_tokens: Tokens to generate.
    """
    for _ in range(new_tokens):
        token = output.logits[:, -1:].argmax(-1)  # (1, 1)
        cache = output.past_key_values
        output = model(token, past_key_values=cache, use_cache=cache is not None)


def decode_speeds(models: Mapping[str, PreTrainedModel], repeats: int = 7) -> dict[str, Speed]:
    """Decoding speed of several models side by side.

    The models take turns, so that what else the machine does hits all of them alike.

    Args:
        models: Models by name.
        repeats: Turns of each, after one that does not count.
    """
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            seconds = decode_seconds(model)
            if turn > 0:
                speeds[name].append(1 / seconds)
    return {name: _speed(values) for name, values in speeds.items()}


def synchronise(device: torch.device) -> None:
    """Waits for a GPU to finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed(values: list[float]) -> Speed:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return Speed(statistics.median(values), high - low)

"""Latency and speed of decoding."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from trimlab.evaluation import decoding
from trimlab.evaluation.decoding import ReadPrompt, greedy_tokens
from trimlab.model.sublayers import evaluating


class Speed(NamedTuple):
    """Decoding speed of one model.

    Attributes:
        tokens_per_second: Median over the repeats; batch size 1, greedy, with a KV cache.
        spread: Interquartile range of tokens per second.
    """

    tokens_per_second: float
    spread: float


def decode_latency_ms(model: PreTrainedModel, repeats: int = 5) -> float:
    """Median milliseconds per generated token, after one repeat for warming up."""
    seconds = [decode_seconds(model) for _ in range(repeats + 1)]
    return 1000 * statistics.median(seconds[1:])


@torch.inference_mode()
def decode_seconds(model: PreTrainedModel, prompt_tokens: int = 32, new_tokens: int = 16) -> float:
    """Seconds per generated token at batch size 1, without the prompt.

    Args:
        model: The model.
        prompt_tokens: Length of the prompt; the time does not depend on its tokens.
        new_tokens: Number of tokens to generate.
    """
    with evaluating(model):
        read = read_prompt(model, prompt_tokens)
        synchronise(model.device)
        start = time.perf_counter()
        decode(model, read, new_tokens)
        synchronise(model.device)
        return (time.perf_counter() - start) / new_tokens


@torch.inference_mode()
def read_prompt(model: PreTrainedModel, tokens: int) -> ReadPrompt:
    """Runs the model on a prompt of so many tokens."""
    ids = torch.arange(tokens, device=model.device)[None] % model.config.vocab_size  # (1, T)
    return decoding.read_prompt(model, ids)


@torch.inference_mode()
def decode(model: PreTrainedModel, prompt: ReadPrompt, new_tokens: int) -> None:
    """Generates tokens after a prompt, one by one.

    Args:
        model: The model.
        prompt: The prompt and the model's output for it.
        new_tokens: Number of forward passes, each on one generated token.
    """
    # the first token comes from the prompt, without a pass
    deque(islice(greedy_tokens(model, prompt), new_tokens + 1), maxlen=0)


def decode_speeds(models: Mapping[str, PreTrainedModel], repeats: int = 7) -> dict[str, Speed]:
    """Decoding speed of several models side by side.

    The models take turns, so that other load on the machine affects all of them alike.

    Args:
        models: Models by name.
        repeats: Number of turns of each, after one for warming up.
    """
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            seconds = decode_seconds(model)
            if turn > 0:
                speeds[name].append(1 / seconds)
    return {name: _speed(values) for name, values in speeds.items()}


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has finished all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of some calls, without a first one that chooses kernels.

    Args:
        work: What is timed.
        device: The device that computes it.
        repeats: Number of timed calls.
    """
    seconds = []
    for _ in range(repeats + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _speed(values: list[float]) -> Speed:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return Speed(statistics.median(values), high - low)

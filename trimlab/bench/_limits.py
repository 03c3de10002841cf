"""The physical limits of inference: how much a model reads and computes, and at what rate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from trimlab.bench._flops import TextSizes, training_flops
from trimlab.evaluation.speed import fastest_seconds
from trimlab.model.sublayers import SublayerStack


@dataclass(frozen=True)
class Limit:
    """What bounds the speed of a kind of work.

    Attributes:
        name: What is limited: `bandwidth` or `matmul_rate`.
        unit: Unit of the work: `bytes` or `flops`.
        rate: Work per second that this device reaches at most, measured.
        work: Work per token of a model, from its stack and the bytes of its stored weights.
    """

    name: str
    unit: str
    rate: float
    work: Callable[[SublayerStack, int], float]


def read_bandwidth(device: torch.device, repeats: int = 5) -> float:
    """Bytes per second at which a matrix is read that no cache holds.

    The faster of a matrix-vector product, as in decoding, and a sum: on a CPU, engines read faster
    than torch's product does.

    Args:
        device: The device; on a CPU, torch's threads share the work.
        repeats: Number of timed reads of each kind; the fastest counts.
    """
    rows = 2**16 if device.type == "cuda" else 2**14
    matrix, vector = torch.ones(rows, 2**12, device=device), torch.ones(2**12, device=device)
    reads = (lambda: torch.mv(matrix, vector), matrix.sum)
    return matrix.nbytes / min(fastest_seconds(read, device, repeats) for read in reads)


@torch.inference_mode()
def cache_bytes(stack: SublayerStack) -> int:
    """Bytes of the KV cache for each token: of the remaining attentions, in the model's type.

    Args:
        stack: The model, trimmed or not.
    """
    ids = torch.zeros(1, 1, dtype=torch.long, device=stack.model.device)
    cache: Any = stack.model(input_ids=ids, use_cache=True).past_key_values
    layers = [] if cache is None else cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def bytes_per_token(stack: SublayerStack, stored: int, tokens: float) -> float:
    """Bytes that decoding a token reads: weights and KV cache.

    Embeddings are not read, but for one row, unless they are the LM head, too.

    Args:
        stack: The model.
        stored: Bytes of its weights as they are stored.
        tokens: Tokens in the KV cache.
    """
    embeddings: Any = stack.model.get_input_embeddings()
    head: Any = stack.model.get_output_embeddings()
    unread = 0 if head.weight is embeddings.weight else embeddings.weight.nbytes
    share = 1 - unread / weight_bytes(stack.model)
    return stored * share + tokens * cache_bytes(stack)


def prompt_flops(stack: SublayerStack, tokens: int) -> int:
    """Operations that a prompt needs until its next token is known, a multiply-add counted as two.

    Args:
        stack: The model.
        tokens: Length of the prompt.
    """
    pairs = tokens * (tokens + 1) // 2
    return training_flops(stack, (), TextSizes(tokens, pairs, scored=1))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers as they are stored: packed ones, and their scales."""
    found: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in _stored(tensor):
            found[id(part)] = part  # tied weights count once
    return sum(part.numel() * part.element_size() for part in found.values())


def _stored(tensor: Any) -> Iterator[Tensor]:
    if is_traceable_wrapper_subclass(tensor):  # sparse: values and indices
        names, _ = tensor.__tensor_flatten__()
        yield from (getattr(tensor, name) for name in names)
        return
    yield tensor
    scales = getattr(tensor, "quant_state", None) or getattr(tensor, "SCB", None)
    if isinstance(scales, torch.Tensor):  # eight bits
        yield scales
    elif scales is not None:  # four bits
        yield scales.absmax

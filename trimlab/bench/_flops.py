"""Floating-point operations that a training step needs, and the rate that a device reaches."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimlab.data.encoding import EncodedItem
from trimlab.evaluation.speed import fastest_seconds
from trimlab.model.sublayers import Sublayer, SublayerStack


@dataclass(frozen=True)
class TextSizes:
    """Sizes of some texts.

    Attributes:
        tokens: Number of tokens that the model reads, without padding.
        pairs: Pairs of a token and one that it attends to, itself included: T (T + 1) / 2 in a
            text of T tokens.
        scored: Positions at which an answer's token is predicted.
    """

    tokens: int
    pairs: int
    scored: int

    @classmethod
    def of(cls, items: Iterable[EncodedItem]) -> "TextSizes":
        """The sizes of training items, each with one choice."""
        tokens = pairs = scored = 0
        for item in items:
            n = len(item.tokens)
            tokens, pairs = tokens + n, pairs + n * (n + 1) // 2
            scored += len(set(item.logit_index))
        return cls(tokens, pairs, scored)


def training_flops(
    stack: SublayerStack,
    trainable: Collection[Sublayer],
    sizes: TextSizes,
    embeddings: bool = False,
) -> int:
    """Operations that training on some texts needs, a multiply-add counted as two.

    With n positions, w weights in the matrices of a sublayer, p pairs and D the width of all heads:

    - forward: 2 n w for each sublayer, and 4 p D for an attention (the products with keys and with
      values);
    - gradients of inputs: 2 n w, and 8 p D for an attention, from the lowest trainable sublayer up
      (the matrices of that one included, as its norm is trained);
    - gradients of weights: 2 n w for each trainable sublayer;
    - LM head: the same with the answers' positions. An MLP that is the last sublayer is needed
      there only.

    Norms, activation functions and the optimizer are not counted.

    Args:
        stack: The model.
        trainable: The trainable sublayers.
        sizes: Sizes of the texts.
        embeddings: Whether embeddings and LM head are trained, too.
    """
    sublayers = list(stack)
    lowest = 0 if embeddings else min(map(sublayers.index, trainable), default=len(sublayers))
    width = _head_width(stack)
    total = 0
    for index, sublayer in enumerate(sublayers):
        last_mlp = sublayer is sublayers[-1] and sublayer.kind == "mlp"
        positions = sizes.scored if last_mlp else sizes.tokens
        matrices = 2 * positions * sum(_linear_weights(stack.modules(sublayer)))
        attended = 4 * sizes.pairs * width if sublayer.kind == "attention" else 0
        total += matrices + attended
        if index >= lowest:
            total += matrices + 2 * attended
        if sublayer in trainable:
            total += matrices
    head: Any = stack.model.get_output_embeddings()
    passes = 1 + bool(trainable or embeddings) + embeddings
    return total + passes * 2 * sizes.scored * head.weight.numel()


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """Operations per second of a large matrix product: the rate that a device really reaches.

    Args:
        device: The device.
        dtype: Type of the matrices.
        repeats: Number of timed products; the fastest counts.
    """
    n = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    return 2 * n**3 / fastest_seconds(lambda: torch.mm(a, b), device, repeats)


def _head_width(stack: SublayerStack) -> int:
    config: Any = stack.model.config.get_text_config()
    heads = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def _linear_weights(modules: Iterable[nn.Module]) -> Iterator[int]:
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Linear):
                yield part.weight.numel()

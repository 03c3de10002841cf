"""Running a model block by block, as methods with calibration texts do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trimlab.baseline import CalibrationTokens
from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import EncodedItem
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.forward_cache import cache_forward

# arguments of a block beside the residual stream (masks, rotary embeddings): positional, named
Call = tuple[tuple[Any, ...], dict[str, Any]]


def text_batches(texts: CalibrationTokens, max_tokens: int = 1024) -> list[Batch]:
    """Batches of texts of one length: padding would count as input.

    Args:
        texts: Token ids of the texts.
        max_tokens: Most tokens in a batch; a longer text is a batch of its own.
    """
    items = [
        EncodedItem(
            tokens=tuple(ids),
            positions=tuple(range(len(ids))),
            continuations=(0,) * len(ids),
            logit_index=(0,),  # nothing is scored, but a batch needs a scored token
            targets=(ids[0],),
            choice_index=(0,),
            gold=0,
        )
        for ids in sorted(texts, key=len)
    ]
    groups: list[list[int]] = []
    for index, item in enumerate(items):
        room = max(1, max_tokens // len(item.tokens))
        last = groups[-1] if groups else []
        if last and len(last) < room and len(items[last[0]].tokens) == len(item.tokens):
            last.append(index)
        else:
            groups.append([index])
    return [collate(items, group) for group in groups]


def begin(stack: SublayerStack, batch: Batch) -> tuple[Tensor, list[Call]]:
    """The residual stream before the first block, and the other arguments of each block."""
    cache = cache_forward(stack, batch.to(stack.model.device))
    calls = [(arguments[1:], named) for arguments, named in cache.calls]
    return cache.calls[0][0][0], calls  # (B, T, D)


def run_block(block: nn.Module, call: Call, state: Tensor) -> Tensor:
    """Runs a block on a residual stream.  # (B, T, D) -> (B, T, D)"""
    arguments, named = call
    return block(state, *arguments, **named)


def each_block(
    stack: SublayerStack, texts: CalibrationTokens
) -> Iterator[tuple[Any, dict[nn.Linear, Tensor]]]:
    """Visits the blocks to change them: each is run on the outputs of the changed ones before it.

    Args:
        stack: The model.
        texts: Token ids of the calibration texts.

    Yields:
        A block, and `X^T X` over all inputs of each of its linear layers.  # (C, C)
    """
    begun = [begin(stack, batch) for batch in text_batches(texts)]
    states = [state for state, _ in begun]  # (B, T, D) each
    for index, block in enumerate(stack.blocks):
        calls = [of_blocks[index] for _, of_blocks in begun]
        with grams_of(block) as grams:
            for call, state in zip(calls, states, strict=True):
                run_block(block, call, state)
        yield block, grams
        states = [run_block(block, call, state) for call, state in zip(calls, states, strict=True)]


@contextmanager
def grams_of(block: nn.Module) -> Iterator[dict[nn.Linear, Tensor]]:
    """Sums `X^T X` over all inputs of each linear layer of a block, in the `with` block.

    They are at least in float32, whatever the type of the model.

    Yields:
        The sums by layer, filled as the block runs.  # (C, C)
    """
    grams: dict[nn.Linear, Tensor] = {}

    def add(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        inputs = args[0].flatten(0, -2)  # (B * T, C)
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        grams[layer] = grams.get(layer, 0) + inputs.T @ inputs

    layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        yield grams
    finally:
        for handle in handles:
            handle.remove()

"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): N:M sparsity in one shot.

Blocks are pruned one after another, each on what the pruned blocks before it pass on. Weights that
are zero take no less memory by themselves: hardware with sparse matrix units gains from 2:4.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimlab.baseline import Baseline, Texts
from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.forward_cache import cache_forward

# what a block is called with, beside the residual stream: masks, rotary embeddings
Call = tuple[tuple[Any, ...], dict[str, Any]]


class SparseGPT(Baseline):
    """Zeroes n of every m weights along a row, and lets the others make up for it.

    Args:
        n: Weights that become zero...
        m: ... of so many that follow one another in a row.
        damp: What is added to the diagonal of the Hessian, as a share of its mean.
        columns: Columns whose corrections are applied to the rest at once; the result does not
            depend on it.
    """

    title = "SparseGPT"

    def __init__(self, n: int = 2, m: int = 4, damp: float = 0.01, columns: int = 128):
        if not 0 < n < m:
            raise InputError(f"n must be from 1 to {m - 1}, not {n}")
        if columns % m:
            raise InputError(f"columns must be a multiple of {m}, not {columns}")
        self.n, self.m, self.damp, self.columns = n, m, damp, columns

    @torch.inference_mode()
    def compress(self, model: str, texts: Texts, folder: Path) -> None:
        """Writes the sparse model, as a plain one with zeros in it."""
        dense, _ = load_model(model)
        stack = SublayerStack(dense)
        begun = [begin(stack, batch) for batch in text_batches(texts)]
        states = [state for state, _ in begun]  # (B, T, D) each
        for index, block in enumerate(stack.blocks):
            calls = [of_blocks[index] for _, of_blocks in begun]
            with grams_of(block) as grams:
                for call, state in zip(calls, states, strict=True):
                    run_block(block, call, state)
            for layer, gram in grams.items():
                weight = sparsify(layer.weight, gram, self.n, self.m, self.damp, self.columns)
                layer.weight.copy_(weight)
            states = [
                run_block(block, call, state) for call, state in zip(calls, states, strict=True)
            ]
        dense.save_pretrained(folder)


def sparsify(
    weight: Tensor, gram: Tensor, n: int, m: int, damp: float = 0.01, columns: int = 128
) -> Tensor:
    """Zeroes n of every m weights of a row, least squares on the layer's inputs (Algorithm 1).

    Going through the columns, each group of m loses the n weights whose removal costs the least,
    `w^2 / [H^-1]_jj` with the columns before it fixed (Equation 4), and every error is passed on
    to the columns that are still free.

    Args:
        weight: The layer's weights.  # (R, C)
        gram: Inner products of its inputs, `X^T X`.  # (C, C)
        n: Weights that become zero...
        m: ... of so many.
        damp: What is added to the diagonal of the Hessian, as a share of its mean.
        columns: Columns that are done before the others are corrected, a multiple of m.

    Returns:
        The sparse weights.  # (R, C)
    """
    left = weight.clone()  # what is still to be pruned, corrected for what has been  # (R, C)
    hessian = gram.clone()
    unused = hessian.diagonal() == 0  # inputs that are always zero
    hessian.diagonal()[unused] = 1
    left[:, unused] = 0
    hessian.diagonal().add_(damp * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    # row j holds the inverse Hessian of the columns from j on, over the root of its first entry
    factor = torch.linalg.cholesky(inverse, upper=True)  # (C, C)
    for start in range(0, left.shape[1], columns):
        stop = min(start + columns, left.shape[1])
        block, own = left[:, start:stop], factor[start:stop, start:stop]  # (R, B), (B, B)
        errors, dropped = torch.zeros_like(block), torch.empty(0)
        for j in range(stop - start):
            if j % m == 0:
                group = slice(j, min(j + m, stop - start))
                costs = (block[:, group] / own.diagonal()[group]).square()  # (R, m)
                dropped = costs.argsort(dim=1, stable=True)[:, :n] + j  # (R, n)
            pruned = dropped.eq(j).any(dim=1)  # (R,)
            errors[:, j] = torch.where(pruned, block[:, j] / own[j, j], 0.0)
            block[:, j + 1 :] -= errors[:, j, None] * own[j, j + 1 :]
            block[pruned, j] = 0
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return left


def text_batches(texts: Texts, max_tokens: int = 1024) -> list[Batch]:
    """Texts of the same length together, so that there is no padding that would count as input."""
    items = [
        EncodedItem(tuple(t), tuple(range(len(t))), (0,) * len(t), (0,), (t[0],), (0,), 0)
        for t in sorted(texts, key=len)
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
    """The residual stream before the first block, and what each is called with beside it."""
    cache = cache_forward(stack, batch)
    calls = [(arguments[1:], named) for arguments, named in cache.calls]
    return cache.calls[0][0][0], calls  # (B, T, D)


def run_block(block: nn.Module, call: Call, state: Tensor) -> Tensor:
    """Runs a block on a residual stream.  # (B, T, D) -> (B, T, D)"""
    arguments, named = call
    return block(state, *arguments, **named)


@contextmanager
def grams_of(block: nn.Module) -> Iterator[dict[nn.Linear, Tensor]]:
    """Adds up `X^T X` of the inputs of a block's linear layers, over all passes."""
    grams: dict[nn.Linear, Tensor] = {}

    def add(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        inputs = args[0].flatten(0, -2)  # (B * T, C)
        grams[layer] = grams.get(layer, 0) + inputs.T @ inputs

    layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        yield grams
    finally:
        for handle in handles:
            handle.remove()

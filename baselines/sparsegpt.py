"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): N:M sparsity in one shot.

Blocks are pruned one after another, each on the output of the pruned blocks before it. Zero weights
take as much memory as others; hardware with sparse matrix units gains from 2:4.
"""

from pathlib import Path

import torch
from torch import Tensor

from baselines._blocks import begin, grams_of, run_block, text_batches
from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.errors import InputError
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack


class SparseGPT(Baseline):
    """Zeroes n of every m weights along a row, and corrects the others for the error.

    Args:
        n: Number of weights that become zero in each group.
        m: Size of a group of consecutive weights in a row.
        damp: Addition to the diagonal of the Hessian, as a share of its mean.
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
    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the sparse model as a dense one with zeros in it."""
        dense, _ = load_model(model, **placement._asdict())
        stack = SublayerStack(dense)
        begun = [begin(stack, batch) for batch in text_batches(texts)]
        states = [state for state, _ in begun]  # (B, T, D) each
        for index, block in enumerate(stack.blocks):
            calls = [of_blocks[index] for _, of_blocks in begun]
            with grams_of(block) as grams:
                for call, state in zip(calls, states, strict=True):
                    run_block(block, call, state)
            for layer, gram in grams.items():
                layer.weight.copy_(
                    sparsify(
                        layer.weight, gram, self.n, self.m, damp=self.damp, columns=self.columns
                    )
                )
            states = [
                run_block(block, call, state) for call, state in zip(calls, states, strict=True)
            ]
        dense.save_pretrained(folder)


def sparsify(
    weight: Tensor, gram: Tensor, n: int, m: int, damp: float = 0.01, columns: int = 128
) -> Tensor:
    """Zeroes n of every m weights of a row, least squares on the layer's inputs (Algorithm 1).

    Column by column, each group of m loses the n weights with the smallest cost of removal,
    `w^2 / [H^-1]_jj` with the columns before it fixed (Equation 4), and the columns after it are
    corrected for the error.

    Args:
        weight: The layer's weights.  # (R, C)
        gram: Inner products of its inputs, `X^T X`.  # (C, C)
        n: Number of weights that become zero in each group.
        m: Size of a group.
        damp: Addition to the diagonal of the Hessian, as a share of its mean.
        columns: Columns that are pruned before the others are corrected, a multiple of m.

    Returns:
        The sparse weights, in the type of the inner products.  # (R, C)
    """
    left = weight.to(gram.dtype, copy=True)  # corrected for the columns pruned so far  # (R, C)
    hessian = gram.clone()
    unused = hessian.diagonal() == 0  # inputs that are always zero
    hessian.diagonal().masked_fill_(unused, 1)
    left.masked_fill_(unused, 0)
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
            block[:, j].masked_fill_(pruned, 0)  # a mask as an index would wait for a GPU
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return left

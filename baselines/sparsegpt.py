"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): N:M sparsity in one shot.

Blocks are pruned one after another, each on the output of the pruned blocks before it. Zero weights
take as much memory as others; hardware with sparse matrix units gains from 2:4.
"""

from pathlib import Path

import torch
from torch import Tensor

from baselines._blocks import each_block
from baselines._least_squares import compensate, inverse_factor
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
        for _, grams in each_block(stack, texts):
            for layer, gram in grams.items():
                layer.weight.copy_(
                    sparsify(
                        layer.weight, gram, self.n, self.m, damp=self.damp, columns=self.columns
                    )
                )
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
    used = weight.masked_fill(gram.diagonal() == 0, 0)  # no weights of inputs that are always zero

    def prune(block: Tensor, own: Tensor) -> Tensor:
        left, dropped = block.clone(), torch.empty(0)  # (R, B)
        for j in range(left.shape[1]):
            if j % m == 0:
                group = slice(j, j + m)
                costs = (left[:, group] / own.diagonal()[group]).square()  # (R, m)
                dropped = costs.argsort(dim=1, stable=True)[:, :n] + j  # (R, n)
            pruned = dropped.eq(j).any(dim=1)  # (R,)
            error = torch.where(pruned, left[:, j] / own[j, j], 0.0)
            left[:, j + 1 :] -= error[:, None] * own[j, j + 1 :]
            left[:, j].masked_fill_(pruned, 0)  # a mask as an index would wait for a GPU
        return left

    return compensate(used, inverse_factor(gram, damp), columns, prune)

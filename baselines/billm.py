"""BiLLM (Huang et al. 2024, arXiv 2402.04291): one bit for most weights, two for salient columns.

Per row and block of columns, a group of weights becomes one absolute value with signs. Salient
columns get a second such term for what is left; the others are split at a break point into small
and large weights with a value of their own. Later columns are corrected as in GPTQ.

The paper counts signs, about 1.1 bits a weight. A model that can be read back needs more: one bit
that tells small from large (of a salient weight, the second sign), one bit a column, and four
values of 16 bits for each row of a block, 2.5 bits in blocks of 128. That is the memory reported
here. No library runs such weights: the folder holds them unpacked, as in the authors' code.

Differences from the authors' code: groups have no mean besides their value (as in the equations of
the paper); salient columns are counted on the weights and not on their squared costs; a block's
error is the exact one for all of its columns together. The limit of salient columns is theirs.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from baselines._blocks import each_block
from baselines._least_squares import compensate, inverse_factor
from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.errors import InputError
from trimlab.files import write_text
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sizes import StoredSizes, stored_sizes
from trimlab.model.sublayers import SublayerStack

MOST_SALIENT = 50 / 128  # of the columns of a block
BITS = "billm.json"


class BiLLM(Baseline):
    """Signs and a few absolute values in place of weights, errors corrected.

    Args:
        columns: Columns that share a row's absolute values; their error is corrected in the rest.
        damp: Addition to the diagonal of the Hessian, as a share of its mean.
    """

    title = "BiLLM"

    def __init__(self, columns: int = 128, damp: float = 0.01):
        if columns < 4:
            raise InputError(f"columns must be at least 4, not {columns}")
        self.columns, self.damp = columns, damp

    @torch.inference_mode()
    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the unpacked model, and bits per weight in `billm.json`."""
        dense, _ = load_model(model, **placement._asdict())
        salient = weights = stored = 0
        for _, grams in each_block(SublayerStack(dense), texts):
            for layer, gram in grams.items():
                binary, count = binarise(layer.weight, gram, self.columns, self.damp)
                layer.weight.copy_(binary)
                salient += count * layer.out_features
                weights += layer.weight.numel()
                stored += 8 * packed_bytes(layer.out_features, layer.in_features, self.columns)
        dense.save_pretrained(folder)
        bits = {"as_published": 1 + salient / weights, "stored": stored / weights}
        write_text(folder / BITS, json.dumps(bits))

    def stored(self, folder: Path, dead: Sequence[str] = ()) -> StoredSizes:
        """Sizes with packed matrices, see `packed_bytes`."""
        return stored_sizes(
            folder, dead, matrix_bytes=lambda rows, wide: packed_bytes(rows, wide, self.columns)
        )

    def note(self, folder: Path) -> str:
        """Bits per weight, the paper's count and what is stored."""
        bits = json.loads((folder / BITS).read_text())
        return (
            f"{bits['stored']:.2f} bits per weight of the layers, with groups and scales; signs "
            f"alone, as the paper counts, {bits['as_published']:.2f}. The folder is not packed."
        )


def packed_bytes(rows: int, wide: int, columns: int) -> float:
    """Bytes of a packed matrix: two bits a weight, one a column, four values of 16 bits a row.

    Args:
        rows: Rows of the matrix.
        wide: Columns of the matrix.
        columns: Columns of a block.
    """
    return (2 * rows * wide + wide) / 8 + 4 * 2 * rows * math.ceil(wide / columns)


def binarise(
    weight: Tensor, gram: Tensor, columns: int = 128, damp: float = 0.01
) -> tuple[Tensor, int]:
    """Binarises a layer, least squares on its inputs (Algorithm 1).

    Args:
        weight: The layer's weights.  # (R, C)
        gram: Inner products of its inputs, `X^T X`.  # (C, C)
        columns: Columns of a block.
        damp: Addition to the diagonal of the Hessian, as a share of its mean.

    Returns:
        The weights that are left, in the type of the inner products, and the number of salient
        columns.  # (R, C)
    """
    counts: list[int] = []

    def approximate(block: Tensor, own: Tensor) -> Tensor:
        costs = (block / own.diagonal()).square().sum(0)  # as SparseGPT's, of whole columns  # (B,)
        order = costs.argsort(descending=True, stable=True)
        counts.append(salient_columns(block[:, order].abs()))
        salient, others = order[: counts[-1]], order[counts[-1] :]
        found = torch.empty_like(block)
        found[:, salient] = residual(block[:, salient])
        found[:, others] = split(block[:, others])
        return found

    return compensate(weight, inverse_factor(gram, damp), columns, approximate), sum(counts)


def salient_columns(sizes: Tensor) -> int:
    """Number of leading columns whose binarisation apart from the others loses the least.

    Args:
        sizes: Absolute values of a block, the most salient columns first.  # (R, B)

    Returns:
        The number, at least one.
    """
    width = sizes.shape[1]
    most = max(1, int(MOST_SALIENT * width))
    counts = torch.arange(1, most + 1, device=sizes.device)  # (n,)
    sums = sizes.cumsum(1)[:, :most]  # (R, n)
    others = sizes.sum(1, keepdim=True) - sums
    # of m weights, the error is the sum of squares less (sum of absolute values)^2 / m
    gains = sums.square() / counts + others.square() / (width - counts)
    return int(gains.sum(0).argmax()) + 1


def binary(weights: Tensor, members: Tensor | None = None) -> Tensor:
    """The closest weights of one absolute value per row: their mean one, with signs (Equation 3).

    Args:
        weights: The weights.  # (R, B)
        members: The weights that count, all by default; others become zero.  # (R, B)
    """
    members = torch.ones_like(weights, dtype=torch.bool) if members is None else members
    sums = weights.abs().masked_fill(~members, 0).sum(1, keepdim=True)
    value = sums / members.sum(1, keepdim=True).clamp(min=1)  # (R, 1)
    return torch.where(members, torch.where(weights < 0, -value, value), 0)


def residual(weights: Tensor) -> Tensor:
    """Two binary terms: of the weights, and of what that leaves.  # (R, B) -> (R, B)"""
    first = binary(weights)
    return first + binary(weights - first)


def split(weights: Tensor) -> Tensor:
    """Small and large weights of a block, binarised apart.  # (R, B) -> (R, B)"""
    small = weights.abs() <= break_point(weights.abs())
    return binary(weights, small) + binary(weights, ~small)


def break_point(sizes: Tensor) -> Tensor:
    """The absolute value that divides small from large weights with the least error.

    Args:
        sizes: Absolute values of a block.  # (R, B)

    Returns:
        One of their percentiles from 10 to 90.  # ()
    """
    shares = torch.linspace(0.1, 0.9, 81, dtype=sizes.dtype, device=sizes.device)
    points = sizes.flatten().quantile(shares)  # (81,)
    ordered = sizes.sort(1).values
    counts = torch.searchsorted(ordered, points.repeat(len(sizes), 1), right=True)  # (R, 81)
    sums = torch.cat([torch.zeros_like(ordered[:, :1]), ordered.cumsum(1)], 1)  # (R, B + 1)
    small = sums.gather(1, counts)
    large = sums[:, -1:] - small
    gains = small.square() / counts.clamp(min=1)
    gains += large.square() / (sizes.shape[1] - counts).clamp(min=1)
    return points[gains.sum(0).argmax()]

"""Corrections of a layer's other weights for an error, least squares on the layer's inputs."""

from collections.abc import Callable

import torch
from torch import Tensor


def damped(gram: Tensor, damp: float) -> Tensor:
    """The Hessian of a layer's squared error, made invertible.

    Args:
        gram: Inner products of the layer's inputs, `X^T X`.  # (C, C)
        damp: Addition to the diagonal, as a share of its mean.

    Returns:
        A copy with the addition; inputs that are always zero have a one on the diagonal.  # (C, C)
    """
    hessian = gram.clone()
    hessian.diagonal().masked_fill_(hessian.diagonal() == 0, 1)
    hessian.diagonal().add_(damp * hessian.diagonal().mean())
    return hessian


def inverse_factor(gram: Tensor, damp: float) -> Tensor:
    """Upper Cholesky factor of the inverse Hessian.

    Row j holds the inverse Hessian of the columns from j on, over the root of its first entry.

    Args:
        gram: Inner products of the layer's inputs, `X^T X`.  # (C, C)
        damp: Addition to the diagonal of the Hessian, as a share of its mean.

    Returns:
        The factor.  # (C, C)
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(gram, damp)))
    return torch.linalg.cholesky(inverse, upper=True)


def compensate(
    weight: Tensor, factor: Tensor, columns: int, approximate: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Approximates a matrix some columns at a time, and corrects the later ones for the error.

    Args:
        weight: The layer's weights.  # (R, C)
        factor: See `inverse_factor`.  # (C, C)
        columns: Number of columns that are approximated at once, B.
        approximate: Takes B columns, corrected for those before them, and their part of the
            factor; returns the columns that take their place.  # (R, B), (B, B) -> (R, B)

    Returns:
        The approximation, in the type of the factor.  # (R, C)
    """
    left = weight.to(factor.dtype, copy=True)  # (R, C)
    for start in range(0, left.shape[1], columns):
        stop = min(start + columns, left.shape[1])
        block, own = left[:, start:stop], factor[start:stop, start:stop]
        found = approximate(block, own)
        errors = torch.linalg.solve_triangular(own, block - found, upper=True, left=False)
        left[:, stop:] -= errors @ factor[start:stop, stop:]
        left[:, start:stop] = found
    return left

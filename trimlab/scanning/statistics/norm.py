"""Frobenius norm of a candidate's output, of TrimLLM's Eq. 4."""

import torch
from torch import Tensor

from trimlab.scanning.statistics import OutputStatistic


def frobenius_norms(added: Tensor, token_mask: Tensor) -> Tensor:
    """Frobenius norm of an output, for each item.

    Args:
        added: Output before the residual add.  # (B, T, D)
        token_mask: True for tokens, False for padding.  # (B, T)

    Returns:
        Norms over the tokens of an item, without padding.  # (B,)
    """
    return (added.double().square().sum(-1) * token_mask).sum(-1).sqrt()


class Norm(OutputStatistic):
    """Frobenius norm of the output over the tokens of an item, averaged over items."""

    def sums(self, before: Tensor, added: Tensor, token_mask: Tensor) -> Tensor:
        norm = frobenius_norms(added, token_mask).sum()
        return torch.stack([norm, torch.full_like(norm, len(token_mask))])

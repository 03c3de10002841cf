"""Cosine of the hidden state before and after a candidate (ShortGPT, Men et al. 2024, Eq. 1)."""

import torch
from torch import Tensor

from trimlab.scanning.statistics import OutputStatistic


def cosines(before: Tensor, added: Tensor, token_mask: Tensor) -> Tensor:
    """Cosine of the hidden state before and after, summed over the tokens of each item.

    Args:
        before: Residual stream before the candidate.  # (B, T, D)
        added: Its output before the residual add.  # (B, T, D)
        token_mask: True for tokens, False for padding.  # (B, T)

    Returns:
        Sums of cosines.  # (B,)
    """
    cosine = torch.cosine_similarity(before.double(), (before + added).double(), dim=-1)  # (B, T)
    return (cosine * token_mask).sum(-1)


class Similarity(OutputStatistic):
    """Cosine of the hidden state before and after the candidate, averaged over tokens."""

    def sums(self, before: Tensor, added: Tensor, token_mask: Tensor) -> Tensor:
        cosine = cosines(before, added, token_mask).sum()
        return torch.stack([cosine, token_mask.sum().to(cosine)])

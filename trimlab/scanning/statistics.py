"""How much candidates change the residual stream: norms and cosines, from one plain pass."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.model.sublayers import Sublayer
from trimlab.scanning.candidates import Candidate

Measure = Literal["accuracy", "norm", "similarity"]


def frobenius_norms(added: Tensor, real: Tensor) -> Tensor:
    """Norm of what is added to the residual stream, per item.

    Args:
        added: Output before the residual add.  # (B, T, D)
        real: True for tokens, False for padding.  # (B, T)

    Returns:
        Frobenius norms over the real tokens.  # (B,)
    """
    return (added.double().square().sum(-1) * real).sum(-1).sqrt()


def cosines(before: Tensor, added: Tensor, real: Tensor) -> Tensor:
    """Cosine of the hidden state before and after, summed over the real tokens of an item.

    Args:
        before: Residual stream before the sublayer.  # (B, T, D)
        added: What the sublayer adds.  # (B, T, D)
        real: True for tokens, False for padding.  # (B, T)

    Returns:
        Sums of cosines.  # (B,)
    """
    cosine = torch.cosine_similarity(before.double(), (before + added).double(), dim=-1)
    return (cosine * real).sum(-1)


class BatchStats:
    """How much candidates change the residual stream of one batch.

    Args:
        found: The candidates.
        measures: What to measure; accuracy, which takes more than one pass, is left to others.
        batch: The items.

    Attributes:
        norms: Frobenius norms, summed over the items.  # (C,)
        cosines: Cosines, summed over the real tokens.  # (C,)
        n_items: Number of items.
        n_tokens: Number of real tokens.
    """

    def __init__(self, found: Sequence[Candidate], measures: Iterable[Measure], batch: Batch):
        self._found, self._real = found, batch.token_mask
        self._measures = {"norm", "similarity"} & set(measures)
        self.norms = torch.zeros(len(found), dtype=torch.float64, device=batch.token_mask.device)
        self.cosines = torch.zeros_like(self.norms)
        self.n_items, self.n_tokens = len(batch), int(batch.token_mask.sum())
        # candidates that have run in part: the stream before them, what they have added so far
        self._begun: dict[int, tuple[Tensor, Tensor]] = {}

    def on_sublayer(self, sublayer: Sublayer, before: Tensor, added: Tensor) -> None:
        """Measures the candidates that end with a sublayer, see `cache_forward`.

        Args:
            sublayer: What has been run.
            before: The residual stream before it.  # (B, T, D)
            added: What it adds.  # (B, T, D)
        """
        for index, candidate in enumerate(self._found if self._measures else []):
            if sublayer not in candidate:
                continue
            start, total = before, added
            if sublayer != candidate[0]:
                start, so_far = self._begun.pop(index)
                total = so_far + added
            if sublayer != candidate[-1]:
                self._begun[index] = start, total
                continue
            if "norm" in self._measures:
                self.norms[index] = frobenius_norms(total, self._real).sum()
            if "similarity" in self._measures:
                self.cosines[index] = cosines(start, total, self._real).sum()


class SublayerStats:
    """How much candidates change the residual stream, added up over batches.

    Args:
        found: The candidates.
        measures: What to measure, see `BatchStats`.
    """

    def __init__(self, found: Sequence[Candidate], measures: Iterable[Measure]):
        self.found, self.measures = found, frozenset(measures)
        self._norms = torch.zeros(len(found), dtype=torch.float64)
        self._cosines = torch.zeros(len(found), dtype=torch.float64)
        self._items = self._tokens = 0

    def of(self, batch: Batch) -> BatchStats:
        """Those of one batch: what is to `on_sublayer` at a pass over it."""
        return BatchStats(self.found, self.measures, batch)

    def add(self, of_batch: BatchStats) -> None:
        """Adds those of a batch."""
        self._norms += of_batch.norms.cpu()
        self._cosines += of_batch.cosines.cpu()
        self._items += of_batch.n_items
        self._tokens += of_batch.n_tokens

    @property
    def norm(self) -> list[float] | None:
        """`Scan.norm`, if it was asked for.  # (C,)"""
        return (self._norms / self._items).tolist() if "norm" in self.measures else None

    @property
    def similarity(self) -> list[float] | None:
        """`Scan.similarity`, if it was asked for.  # (C,)"""
        return (self._cosines / self._tokens).tolist() if "similarity" in self.measures else None

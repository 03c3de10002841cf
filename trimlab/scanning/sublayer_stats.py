"""Output statistics of all candidates, from one forward pass of the whole model."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.model.sublayers import Sublayer
from trimlab.scanning.candidates import Candidate
from trimlab.scanning.statistics import OutputStatistic


class SublayerStats:
    """Sums of the output statistics over one batch, filled in while the model runs.

    Args:
        found: The candidates.
        statistics: The statistics by name.
        batch: The items.
    """

    def __init__(
        self, found: Sequence[Candidate], statistics: Mapping[str, OutputStatistic], batch: Batch
    ):
        self._found, self._statistics = found, statistics
        self._token_mask = batch.token_mask  # (B, T)
        self._sums: dict[str, dict[int, Tensor]] = {name: {} for name in statistics}  # (S,) each
        # candidates that have run in part: the stream before them, and their output so far
        self._begun: dict[int, tuple[Tensor, Tensor]] = {}

    def on_sublayer(self, sublayer: Sublayer, before: Tensor, added: Tensor) -> None:
        """Computes the sums of the candidates that end with a sublayer, see `cache_forward`.

        Args:
            sublayer: The sublayer that has run.
            before: Residual stream before it.  # (B, T, D)
            added: Its output before the residual add.  # (B, T, D)
        """
        for index, candidate in enumerate(self._found if self._statistics else []):
            if sublayer not in candidate:
                continue
            start, total = before, added
            if sublayer != candidate[0]:
                start, so_far = self._begun.pop(index)
                total = so_far + added
            if sublayer != candidate[-1]:
                self._begun[index] = start, total
                continue
            for name, statistic in self._statistics.items():
                self._sums[name][index] = statistic.sums(start, total, self._token_mask)

    def sums(self) -> dict[str, Tensor]:
        """The sums of every candidate by name, on the model's device.  # (C, S) each"""
        indices = range(len(self._found))
        return {
            name: torch.stack([sums[index] for index in indices])
            for name, sums in self._sums.items()
        }


def output_statistics(
    statistics: Mapping[str, OutputStatistic], batch_sums: Sequence[Mapping[str, Tensor]]
) -> dict[str, list[float]]:
    """Values of the output statistics of all candidates.

    Args:
        statistics: The statistics by name.
        batch_sums: `SublayerStats.sums` of every batch.  # (C, S) each
    """
    totals = {name: sum(sums[name] for sums in batch_sums) for name in statistics}
    return {
        name: statistic.reduce(torch.as_tensor(totals[name]).cpu())
        for name, statistic in statistics.items()
    }

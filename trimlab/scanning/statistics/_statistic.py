"""The two kinds of statistics, and the loader."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.evaluation.metrics import MetricName
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import plugin_class, plugin_module

STATISTICS = "trimlab.scanning.statistics"


class Statistic(ABC):
    """One number for every candidate.

    Args:
        metric: The task's metric.
    """

    def __init__(self, metric: MetricName = "accuracy"):
        self.metric: MetricName = metric

    @abstractmethod
    def reduce(self, values: Tensor) -> list[float]:
        """Values of all candidates, from those of all batches."""


class OutputStatistic(Statistic):
    """A statistic of what a candidate adds to the residual stream.

    One forward pass of the whole model gives it for every candidate.
    """

    @abstractmethod
    def sums(self, before: Tensor, added: Tensor, token_mask: Tensor) -> Tensor:
        """Sums over a batch, for one candidate.

        Args:
            before: Residual stream before the candidate.  # (B, T, D)
            added: Sum of the outputs of its sublayers, before the residual add.  # (B, T, D)
            token_mask: True for tokens, False for padding.  # (B, T)

        Returns:
            Any number of sums in float64, which are added up over the batches.  # (S,)
        """

    def reduce(self, values: Tensor) -> list[float]:
        """Values of all candidates; by default the first sum over the second.

        Args:
            values: The sums of every candidate over all batches.  # (C, S)
        """
        return (values[:, 0] / values[:, 1]).tolist()


@dataclass(frozen=True)
class BypassedPasses:
    """Forward passes over one batch, each with one candidate bypassed.

    Only positions that predict a scored token are kept; S is their largest number in an item.

    Attributes:
        stack: The model, with every candidate in place.
        batch: The items; `logit_index` points into the kept positions.
        hidden: Last hidden states without each candidate, after the final norm.  # (C, B, S, D)
        whole: The same of the model with every candidate.  # (B, S, D)
        likelihoods: Log-likelihood of every choice without each candidate, -inf where an item
            has fewer choices; None where no statistic asked for them. Where all statistics are
            content with the likeliest choice, the others have an upper bound.  # (C, B, K)
    """

    stack: SublayerStack
    batch: Batch
    hidden: Tensor
    whole: Tensor
    likelihoods: Tensor | None

    @property
    def position_mask(self) -> Tensor:
        """True for positions that predict a scored token, False for filling.  # (B, S)"""
        mask = torch.zeros(self.whole.shape[:2], dtype=torch.bool, device=self.whole.device)
        mask[self.batch.item_index, self.batch.logit_index] = True
        return mask


class BypassStatistic(Statistic):
    """A statistic of the model's output with a candidate bypassed."""

    @property
    def choices(self) -> Literal["none", "likeliest", "all"]:
        """The choices whose exact log-likelihoods are needed: fewer cost less of the LM head.

        Where no statistic needs any, the items of a drop step have the right choice alone.
        """
        return "all"

    @abstractmethod
    def of_items(self, passes: BypassedPasses) -> Tensor:
        """Values of every item of a batch, for all candidates at once.

        Args:
            passes: The passes over the batch.

        Returns:
            Any number of values in float64, which are concatenated over the
            batches.  # (S, C, B)
        """

    def reduce(self, values: Tensor) -> list[float]:
        """Values of all candidates; by default the mean of the first value over the items.

        Args:
            values: The values of all N items of all batches.  # (S, C, N)
        """
        return values[0].mean(-1).tolist()


def load_statistic(name: str, metric: MetricName = "accuracy") -> Statistic:
    """Makes a statistic.

    Args:
        name: A file in this folder (`norm`).
        metric: The task's metric.

    Raises:
        InputError: There is no such statistic.
    """
    return plugin_class(plugin_module(STATISTICS, name, "statistic"), Statistic)(metric)

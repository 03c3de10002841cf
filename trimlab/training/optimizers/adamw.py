"""AdamW of PyTorch; on a GPU in one kernel for all parameters."""

from collections.abc import Sequence

import torch
from torch import nn

from trimlab.training.optimizers import TrainOptimizer


class AdamW(TrainOptimizer):
    """Two moments per parameter, in the type of the weights."""

    def make(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        on_gpu = any(parameter.is_cuda for parameter in parameters)
        # a group may be empty (every trainable sublayer dropped), a bare list may not
        group = {"params": list(parameters)}
        return torch.optim.AdamW([group], lr=lr, weight_decay=weight_decay, fused=on_gpu or None)

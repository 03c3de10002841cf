"""Distillation of the last hidden states from the model fine-tuned at full depth.

An answer is a few tokens of an item; the hidden states say something at every token. Relative mean
squared error of hidden states: DistilBERT and TinyBERT use its kin (Sanh et al. 2019; Jiao et al.
2020).
"""

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.evaluation.likelihoods import model_inputs, token_log_probs
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss


def relative_errors(hidden: Tensor, target: Tensor, token_mask: Tensor) -> Tensor:
    """Squared distance of the hidden states of each item over their squared norm.

    Args:
        hidden: Hidden states.  # (B, T, D)
        target: Those that they are compared with.  # (B, T, D)
        token_mask: True for tokens, False for padding.  # (B, T)

    Returns:
        At least in float32.  # (B,)
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    mask = token_mask.to(dtype)  # (B, T)
    distance = (hidden.to(dtype) - target.to(dtype)).square().sum(-1)  # (B, T)
    norm = target.to(dtype).square().sum(-1)  # (B, T)
    return (distance * mask).sum(1) / (norm * mask).sum(1)


class HiddenStates(Loss):
    """Cross-entropy of the answer tokens, plus the relative error of the last hidden states.

    The error of an item weighs as much as its answer: it is multiplied by the number of scored
    tokens, by which a step divides.
    """

    all_positions = True
    needs_teacher = True

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        assert teacher is not None
        model = teacher.model
        with torch.no_grad():
            target = teacher.hidden(**model_inputs(batch, model.config, model.dtype))
        errors = relative_errors(hidden, target, batch.token_mask)  # (B,)
        scored = torch.zeros_like(errors).index_add_(
            0, batch.item_index, torch.ones_like(batch.item_index, dtype=errors.dtype)
        )  # (B,)
        return -token_log_probs(stack, hidden, batch).sum() + (scored * errors).sum()

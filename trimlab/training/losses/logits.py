"""Distillation of the next-token distributions of the model fine-tuned at full depth.

Knowledge distillation (Hinton et al. 2015) at temperature 1: the teacher says of every token of the
vocabulary how likely it is, the answer only which one is right.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trimlab.data.batching import Batch
from trimlab.evaluation.likelihoods import head_outputs, model_inputs
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss


class Logits(Loss):
    """Cross-entropy of the answer tokens, plus KL(teacher || student) where they are predicted.

    Both are in nats per token and weigh the same. The gradient of their sum is that of twice the
    cross-entropy whose target is the mean of the teacher's distribution and the right token.
    """

    needs_teacher = True

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        assert teacher is not None
        model, dtype = teacher.model, torch.promote_types(hidden.dtype, torch.float32)
        with torch.no_grad(), teacher.last_mlp_only_at(batch.scored_positions):
            taught = teacher.hidden(**model_inputs(batch, model.config, model.dtype))
            outputs = [logits for logits, _, _ in head_outputs(teacher, taught, batch)]
        loss = hidden.new_zeros((), dtype=dtype)
        students = head_outputs(stack, hidden, batch)
        for (logits, here, local), target in zip(students, outputs, strict=True):
            log_probs = logits.to(dtype).log_softmax(-1)  # (U', V)
            target = target.to(dtype).log_softmax(-1)  # (U', V)
            divergences = F.kl_div(log_probs, target, reduction="none", log_target=True).sum(-1)
            answers = log_probs[local, batch.targets[here]]  # (P',)
            loss = loss + (divergences[local] - answers).sum()
        return loss

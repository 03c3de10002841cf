"""Distillation of the answers' logits from the model fine-tuned at full depth (Hinton et al. 2015).

A right answer is one token out of the vocabulary; the teacher's distribution also says which other
tokens are near.
"""

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.evaluation.likelihoods import head_outputs, model_inputs
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss


class AnswerDistillation(Loss):
    """Cross-entropy of the answer tokens, plus KL(teacher || model) where they are predicted."""

    needs_teacher = True

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        assert teacher is not None
        model = teacher.model
        with torch.no_grad(), teacher.last_mlp_only_at(batch.scored_positions):
            target = teacher.hidden(**model_inputs(batch, model.config, model.dtype))
        total = hidden.new_zeros((), dtype=torch.float32)
        theirs = head_outputs(teacher, target, batch)
        for (logits, here, local), (expected, _, _) in zip(
            head_outputs(stack, hidden, batch), theirs, strict=True
        ):
            log_probs = logits.float().log_softmax(-1)  # (U', V)
            with torch.no_grad():
                expected = expected.float().log_softmax(-1)  # (U', V)
            divergence = (expected.exp() * (expected - log_probs)).sum(-1)  # (U',)
            total = total - log_probs[local, batch.targets[here]].sum() + divergence[local].sum()
        return total

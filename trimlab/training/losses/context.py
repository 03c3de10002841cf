"""Answers, and the tokens of their contexts: the model stays one that can write.

Language modelling as an auxiliary objective of fine-tuning, as in GPT (Radford et al. 2018, section
3.2). There, its weight is 0.5; here, it is that of the answer.
"""

from dataclasses import replace

import torch
from torch import Tensor

from trimlab.data.batching import Batch, to_device
from trimlab.evaluation.likelihoods import token_log_probs
from trimlab.model.sublayers import SublayerStack
from trimlab.training.losses import Loss


def of_contexts(batch: Batch) -> Batch:
    """The same items, of which the context is scored: all tokens with one before them.

    Args:
        batch: Items with one choice each, on any device.
    """
    if batch.device.type != "cpu":
        return of_contexts(batch.on_host).to(batch.device)
    predicts = torch.zeros_like(batch.token_mask)  # (B, T)
    predicts[:, :-1] = batch.token_mask[:, 1:]
    predicts[batch.item_index, batch.logit_index] = False  # these predict the answer
    item_index, logit_index = predicts.nonzero(as_tuple=True)  # (P,), (P,)
    return replace(
        batch,
        item_index=item_index,
        logit_index=logit_index,
        targets=batch.input_ids[item_index, logit_index + 1],
        choice_index=torch.zeros_like(item_index),
    )


class Context(Loss):
    """Cross-entropy of the answer tokens, plus that of the tokens of the context.

    The mean over an item's context weighs as much as the mean over its answer: it is multiplied by
    the number of scored tokens, by which a step divides. A weight of every token would leave the
    weight of the answer to the length of the context, which is hundreds of tokens in one task and
    ten in another. The LM head runs at all positions.
    """

    all_positions = True
    head_everywhere = True

    def __call__(
        self, stack: SublayerStack, hidden: Tensor, batch: Batch, teacher: SublayerStack | None
    ) -> Tensor:
        context = of_contexts(batch)
        log_probs = token_log_probs(stack, hidden, context)  # (P,)
        weights = to_device(_weights(batch, context).to(log_probs.dtype), hidden.device)  # (P,)
        answers = token_log_probs(stack, hidden, batch)
        return -answers.sum() - (weights * log_probs).sum()


def _weights(batch: Batch, context: Batch) -> Tensor:
    """Weight of every token of the contexts, on the CPU.  # (P,)"""
    n, owners = len(batch), context.on_host.item_index
    scored = torch.bincount(batch.on_host.item_index, minlength=n).double()  # (B,)
    return (scored / torch.bincount(owners, minlength=n))[owners]

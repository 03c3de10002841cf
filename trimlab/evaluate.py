"""The score of a model on a set of items, with its standard error."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from trimlab.choices import Batch, log_likelihoods
from trimlab.metrics import MetricName, Score, TaskScore
from trimlab.onednn import onednn_linears
from trimlab.sublayers import SublayerStack


@torch.inference_mode()
def evaluate(
    stack: SublayerStack,
    batches: Sequence[Batch],
    metric: MetricName = "accuracy",
    progress: bool = False,
    name: str = "evaluate",
) -> Score:
    """Scores a model.

    Args:
        stack: The model, trimmed or not.
        batches: Items, from `DomainData.evaluation_batches`.
        metric: The task's metric.
        progress: Show a bar with the time left.
        name: What the bar is called.

    Returns:
        Value in [0, 100], standard error, number of items.
    """
    device = stack.model.device
    total = TaskScore(metric).to(device)
    was_training = stack.model.training
    stack.model.eval()
    tokens = sum(batch.input_ids.numel() for batch in batches)
    with (
        onednn_linears(stack.model),
        tqdm(total=tokens, desc=name, unit="token", disable=not progress, leave=False) as bar,
    ):
        for batch in batches:
            batch = batch.to(device)
            total.update(log_likelihoods(stack, batch, metric == "accuracy"), batch)
            bar.update(batch.input_ids.numel())
    stack.model.train(was_training)
    return total.score()

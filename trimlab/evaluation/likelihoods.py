"""Multiple-choice scoring: the log-likelihood of every choice, the context computed once.

The choices of an item form a tree: a shared prefix (the context), and a continuation for each. One
sequence holds the prefix and then every continuation. An attention mask separates the
continuations, and position ids start each of them behind the prefix, so that a single pass over
the item is equivalent to one pass per choice. The LM head runs only where a choice token is
predicted.

Tokenisation and metric follow lm-evaluation-harness (`TemplateLM._encode_pair`,
`ConfigurableTask.process_results`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from trimlab.data.batching import Batch, to_device
from trimlab.evaluation.metrics import MetricName
from trimlab.model.sublayers import SublayerStack

CACHED_ROWS = 8  # rows of 262,144 logits that fit into a cache of 8 MB
HEAD_ROWS = 256  # positions per call of the LM head: 256 rows of 262,144 logits are 268 MB
GPU_LOGITS = 2**27  # logits per call of the LM head on a GPU, 537 MB in float32
MASK_ALIGNMENT = 16  # numbers in a row of a mask, of which SDPA's kernels on a GPU want a multiple


def tree_mask(continuations: Tensor, positions: Tensor, window: int | None = None) -> Tensor:
    """Attention mask of a tree.

    A token attends to itself, the prefix, and the earlier tokens of its own continuation.

    Args:
        continuations: 0 in the prefix, 1 + k in continuation k, -1 in the padding.  # (B, T)
        positions: Position ids.  # (B, T)
        window: Size of the sliding window in positions, or None.

    Returns:
        True where attention is allowed.  # (B, 1, T, T)
    """
    query, key = continuations[:, :, None], continuations[:, None, :]
    distance = positions[:, :, None] - positions[:, None, :]
    allowed = ((key == 0) | (key == query)) & (distance >= 0)
    if window is not None:
        allowed &= distance < window
    # padding attends to itself: a row without any key would be NaN
    real = key >= 0
    itself = torch.eye(continuations.shape[1], dtype=torch.bool, device=continuations.device)
    return torch.where(real, allowed, itself)[:, None]  # (B, 1, T, T)


def model_inputs(batch: Batch, config: PretrainedConfig, dtype: torch.dtype) -> dict[str, object]:
    """Arguments for the decoder: token ids, position ids and, for a tree, its masks."""
    inputs: dict[str, object] = {"input_ids": batch.input_ids}
    if not batch.is_tree:
        return inputs  # with a causal mask, right padding changes no token before it

    def additive(window: int | None) -> Tensor:
        allowed = tree_mask(batch.continuations, batch.positions, window)
        *shape, length = allowed.shape
        if allowed.is_cuda:  # else every attention would copy the mask into longer rows
            length = -(-length // MASK_ALIGNMENT) * MASK_ALIGNMENT
        mask = torch.zeros((*shape, length), dtype=dtype, device=allowed.device)
        return mask[..., : shape[-1]].masked_fill_(~allowed, torch.finfo(dtype).min)

    window = getattr(config, "sliding_window", None)
    layer_types = set(getattr(config, "layer_types", None) or [])
    if layer_types:  # the model picks its mask by the type of the block
        mask: object = {"full_attention": additive(None)}
        if "sliding_attention" in layer_types:
            mask["sliding_attention"] = additive(window)  # type: ignore[index]
    else:
        mask = additive(window)
    return inputs | {"position_ids": batch.positions, "attention_mask": mask}


def rows_per_call(vocabulary: int, cuda: bool) -> int:
    """Positions per call of the LM head.

    Args:
        vocabulary: Number of logits of a position.
        cuda: Whether it runs on a GPU.
    """
    return max(HEAD_ROWS, GPU_LOGITS // vocabulary) if cuda else HEAD_ROWS


def head_outputs(
    stack: SublayerStack, hidden: Tensor, batch: Batch
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits where scored tokens are predicted.

    Positions that predict several tokens (the end of the prefix predicts the first token of
    each choice) go through the LM head once, and the head runs on some rows at a time.

    Yields:
        Logits of some positions (U', V); the scored tokens that they predict (P',); and the row
        of the logits that predicts each (P',).
    """
    device = hidden.device
    unique, which = batch.head_rows(hidden.shape[1])  # (U,), (P,)
    rows = hidden.flatten(0, 1)[to_device(unique, device)]  # (U, D)
    step = rows_per_call(stack.model.config.vocab_size, hidden.is_cuda)
    for start in range(0, len(unique), step):
        logits = stack.head(rows[start : start + step])  # (U', V)
        here = ((which >= start) & (which < start + step)).nonzero().squeeze(1)
        yield logits, to_device(here, device), to_device(which[here] - start, device)


def token_log_probs(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-probability of every scored token.

    Args:
        stack: The model.
        hidden: Last hidden states, after the final norm.  # (B, T, D)
        batch: The batch they belong to.

    Returns:
        Natural logarithms, at least in float32.  # (P,)
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    result = hidden.new_empty(len(batch.targets), dtype=dtype)  # (P,)
    for logits, here, local in head_outputs(stack, hidden, batch):
        logits = logits.to(dtype)  # (U', V)
        # a few rows at a time stay in the CPU's cache: half of the time of all at once
        rows = len(logits) if logits.is_cuda else CACHED_ROWS
        normalisers = torch.cat([few.logsumexp(-1) for few in logits.split(rows)])  # (U',)
        result[here] = logits[local, batch.targets[here]] - normalisers[local]
    return result


def token_hits(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Whether every scored token is the likeliest one: 1 or 0, in float64.

    Args:
        stack: The model.
        hidden: Last hidden states, after the final norm.  # (B, T, D)
        batch: The batch they belong to.

    Returns:
        The hits.  # (P,)
    """
    hits = hidden.new_empty(len(batch.targets), dtype=torch.float64)  # (P,)
    for logits, here, local in head_outputs(stack, hidden, batch):
        hits[here] = (logits.argmax(-1)[local] == batch.targets[here]).double()
    return hits


def head_positions(batch: Batch) -> tuple[Tensor, Batch]:
    """The positions on which the LM head runs: those that predict a scored token.

    Args:
        batch: The items.

    Returns:
        The positions of each item, filled up with 0 (B, S), and the batch that belongs to hidden
        states at these positions (B, S, D): its `logit_index` points into them.
    """
    if batch.device.type != "cpu":
        positions, scored = head_positions(batch.on_host)
        index = to_device(scored.logit_index, batch.device)
        return to_device(positions, batch.device), replace(batch, logit_index=index, source=scored)
    length = batch.input_ids.shape[1]
    unique, which = batch.head_rows(length)  # (U,), (P,)
    items = unique // length  # (U,)
    counts = torch.bincount(items, minlength=len(batch))  # (B,)
    before = (counts.cumsum(0) - counts)[items]  # (U,)
    slots = torch.arange(len(unique), device=unique.device) - before  # (U,)
    positions = unique.new_zeros(len(batch), int(counts.max()))  # (B, S)
    positions[items, slots] = unique % length
    return positions, replace(batch, logit_index=slots[which])


def sum_by_choice(values: Tensor, batch: Batch) -> Tensor:
    """Sum over the tokens of every choice, -inf where an item has fewer.  # (P,) -> (B, K)"""
    shape = len(batch), batch.n_choices
    index = batch.item_index * shape[1] + batch.choice_index
    if values.is_cuda:  # a GPU adds in any order, which shows in float32
        values = values.double()
    sums = values.new_zeros(shape).flatten().index_add_(0, index, values)
    missing = torch.ones_like(sums, dtype=torch.bool).index_fill_(0, index, False)
    return sums.masked_fill_(missing, -torch.inf).view(shape)


def choice_likelihoods(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-likelihood of every choice, from hidden states.  # (B, T, D) -> (B, K)"""
    return sum_by_choice(token_log_probs(stack, hidden, batch), batch)


def choice_hits(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Hits of every choice, see `token_hits`, from hidden states.  # (B, T, D) -> (B, K)"""
    return sum_by_choice(token_hits(stack, hidden, batch), batch)


def winning_likelihoods(stack: SublayerStack, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-likelihood of the likeliest choice, and upper bounds of the others.

    No log-probability is positive, so the sum over a choice's first tokens is an upper bound of
    its log-likelihood. A choice whose bound is below another's full log-likelihood cannot be the
    likeliest, and the LM head does not run on its other tokens. The argmax is that of the full
    log-likelihoods. Which tokens are left is read from the bounds, for which a GPU would have to
    be waited for: there, every choice is computed in full.

    Args:
        stack: The model.
        hidden: Last hidden states, after the final norm.  # (B, T, D)
        batch: The batch they belong to.

    Returns:
        Log-likelihoods or upper bounds, -inf where an item has fewer choices.  # (B, K)
    """
    if hidden.device.type != "cpu":
        return choice_likelihoods(stack, hidden, batch)
    # scored tokens are in order: a choice begins where item or choice changes
    choice_of = batch.item_index * batch.n_choices + batch.choice_index  # (P,)
    first = torch.ones_like(choice_of, dtype=torch.bool)
    first[1:] = choice_of[1:] != choice_of[:-1]
    shape = len(batch), batch.n_choices
    bounds = hidden.new_full(
        shape, -torch.inf, dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    bounds = bounds.flatten()  # (B * K,)
    bounds[choice_of[first]] = token_log_probs(stack, hidden, batch.scoring(first))
    unfinished = torch.zeros_like(bounds, dtype=torch.bool).index_fill_(0, choice_of[~first], True)
    while True:
        best = bounds.masked_fill(unfinished, -torch.inf).view(shape).amax(-1)  # (B,)
        bound, choice = bounds.masked_fill(~unfinished, -torch.inf).view(shape).max(-1)  # (B,)
        # of every item, its likeliest unfinished choice, if that may still win or tie
        contends = (bound >= best) & (bound > -torch.inf)
        if not bool(contends.any()):
            return bounds.view(shape)
        chosen = (
            ~first & contends[batch.item_index] & (choice[batch.item_index] == batch.choice_index)
        )
        log_probs = token_log_probs(stack, hidden, batch.scoring(chosen))
        bounds.index_add_(0, choice_of[chosen], log_probs)
        unfinished[choice_of[chosen]] = False


@torch.inference_mode()
def log_likelihoods(stack: SublayerStack, batch: Batch) -> Tensor:
    """Log-likelihood of every choice of a batch, in one pass.

    Args:
        stack: The model.
        batch: The items.

    Returns:
        Natural logarithms, -inf where an item has fewer choices.  # (B, K)
    """
    return choice_likelihoods(stack, _scored_hidden(stack, batch), batch)


@torch.inference_mode()
def choice_scores(stack: SublayerStack, batch: Batch, metric: MetricName) -> Tensor:
    """What a metric needs of every choice of a batch, in one pass: see `metric_terms`.

    Args:
        stack: The model.
        batch: The items.
        metric: The metric. Accuracy is content with upper bounds for all choices but the
            likeliest.

    Returns:
        Log-likelihoods or hits, -inf where an item has fewer choices.  # (B, K)
    """
    return SCORES[metric](stack, _scored_hidden(stack, batch), batch)


SCORES: dict[MetricName, Callable[[SublayerStack, Tensor, Batch], Tensor]] = {
    "accuracy": winning_likelihoods,
    "exp_neg_loss": choice_likelihoods,
    "token_accuracy": choice_hits,
}


def _scored_hidden(stack: SublayerStack, batch: Batch) -> Tensor:
    """Last hidden states, right where a scored token is predicted.  # (B, T, D)"""
    with stack.last_mlp_only_at(batch.scored_positions):
        return stack.hidden(**model_inputs(batch, stack.model.config, stack.model.dtype))

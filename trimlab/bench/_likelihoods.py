"""Log-likelihoods of choices by lm-evaluation-harness and by plain forward passes."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._timing import BenchmarkCandidate, time_alternately
from trimlab.data.encoding import token_ids
from trimlab.data.items import Item
from trimlab.evaluation.harness import harness_likelihoods, harness_model

Likelihoods = list[list[float]]  # one list per item, one log-likelihood per choice


def naive_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> Callable[[], Likelihoods]:
    """One forward pass over the whole text per choice, with logits at every position."""

    @torch.inference_mode()
    def likelihood(item: Item, choice: str) -> float:
        start = len(token_ids(tokenizer, item.context))
        ids = torch.tensor([token_ids(tokenizer, item.context + choice)]).to(model.device)  # (1, T)
        log_probs = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)  # (1, T, V)
        predicted = log_probs[0, start - 1 : -1].gather(1, ids[0, start:, None])
        return float(predicted.sum())

    return lambda: [[likelihood(item, choice) for choice in item.choices] for item in items]


def best_harness_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch_sizes: Sequence[int],
) -> tuple[Callable[[], Likelihoods], int]:
    """The harness at its fastest batch size, and this batch size.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        items: The items.
        batch_sizes: Batch sizes to try.
    """
    size = fastest_batch_size(model, tokenizer, items, batch_sizes)
    return _with_harness(model, tokenizer, items, size), size


def harness_batch_sizes(device: torch.device) -> tuple[int, ...]:
    """Batch sizes of the harness that are worth a try on a device."""
    return (1, 4, 8, 16) if device.type == "cpu" else (8, 32, 64, 128)


def fastest_batch_size(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch_sizes: Sequence[int],
    trial: int = 8,
) -> int:
    """The harness's fastest batch size, tried on some items spread over all of them.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        items: The items.
        batch_sizes: Batch sizes to try.
        trial: Fewest items, where there are as many; they always fill the largest batch.
    """
    fewest = min(len(item.choices) for item in items)  # requests of an item
    trial = max(trial, -(-max(batch_sizes) // fewest))
    some = items[:: max(1, len(items) // trial)]

    def candidate(size: int) -> BenchmarkCandidate:
        return lambda: _with_harness(model, tokenizer, some, size)

    candidates = {str(size): candidate(size) for size in batch_sizes}
    turns = time_alternately(candidates, dict.fromkeys(candidates, 1))
    return min(batch_sizes, key=lambda size: turns[str(size)].median)


def _with_harness(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], size: int
) -> Callable[[], Likelihoods]:
    """The harness with one batch size, tokenisation included."""
    lm = harness_model(model, tokenizer, size)
    return lambda: harness_likelihoods(lm, items)

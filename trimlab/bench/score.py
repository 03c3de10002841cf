"""Scoring test items: the log-likelihood of every choice, against one request per choice."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._benchmark import Bench, Measurement
from trimlab.bench._timing import Contender, race
from trimlab.data.batching import batches, collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.evaluation.answers import answer
from trimlab.evaluation.harness import harness_likelihoods, harness_model
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import Row

Likelihoods = list[list[float]]  # one list per item, one number per choice


class Score(Bench):
    """Scores test items.

    The peers run one request per choice: lm-evaluation-harness with its best batch size, or one
    plain forward pass at a time.

    Args:
        rows: Test items.
        eval_tokens: Most tokens that we compute at once.
        batch_sizes: Batch sizes of the harness; all are tried on some items first, and the
            fastest runs.
    """

    peers = ("lm-eval", "naive")

    def __init__(
        self,
        rows: int = 100,
        eval_tokens: int = 1024,
        batch_sizes: tuple[int, ...] = (1, 4, 8, 16),
        **common: Any,
    ):
        super().__init__(**common)
        self.n, self.eval_tokens, self.batch_sizes = rows, eval_tokens, batch_sizes

    def measure(self) -> Iterator[Measurement]:
        """All log-likelihoods of the items, tokenisation included."""
        model, tokenizer = self.load()
        items = self.test_items(self.n)
        settings: Row = {"eval_tokens": self.eval_tokens}
        ours = our_likelihoods(SublayerStack(model), tokenizer, items, self.eval_tokens)
        peer = None
        if self.against == "lm-eval":
            size = best_batch_size(model, tokenizer, items, self.batch_sizes)
            settings["peer_batch_size"] = size
            peer = harness_contender(model, tokenizer, items, size)
        elif self.against == "naive":
            peer = naive_likelihoods(model, tokenizer, items)
        own_turns, peer_turns = self.race(lambda: ours, peer and (lambda: peer))
        yield Measurement(
            "log-likelihood of every choice",
            own_turns,
            peer_turns,
            self.against,
            same=compare(own_turns.result, peer_turns.result) if peer_turns else {},
            question={"rows": len(items)},
            settings=settings,
        )


def our_likelihoods(
    stack: SublayerStack, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], tokens: int
) -> Callable[[], Likelihoods]:
    """Our way: all choices of an item in one pass."""

    def run() -> Likelihoods:
        encoded = [encode(tokenizer, item, tokenizer.model_max_length) for item in items]
        groups = [collate(encoded, group) for group in batches(encoded, tokens)]
        likelihoods = answer(stack, groups, full=True).likelihoods.tolist()
        return [row[: len(item.choices)] for row, item in zip(likelihoods, items, strict=True)]

    return run


def naive_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> Callable[[], Likelihoods]:
    """The plain way: one whole forward pass per choice, logits at every position."""

    @torch.inference_mode()
    def likelihood(item: Item, choice: str) -> float:
        start = len(tokenizer(item.context)["input_ids"])  # type: ignore[arg-type]
        ids = tokenizer(item.context + choice, return_tensors="pt")["input_ids"]
        ids = ids.to(model.device)  # type: ignore[union-attr]  # (1, T)
        log_probs = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)  # (1, T, V)
        predicted = log_probs[0, start - 1 : -1].gather(1, ids[0, start:, None])  # type: ignore[index]
        return float(predicted.sum())

    return lambda: [[likelihood(item, choice) for choice in item.choices] for item in items]


def harness_contender(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], size: int
) -> Callable[[], Likelihoods]:
    """The harness, from its tokenisation to its log-likelihoods."""
    lm = harness_model(model, tokenizer, size)
    return lambda: harness_likelihoods(lm, items)


def best_batch_size(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    sizes: Sequence[int],
    trial: int = 8,
) -> int:
    """The harness's fastest batch size, tried on every n-th of the items."""
    some = items[:: max(1, len(items) // trial)]

    def contender(size: int) -> Contender:
        return lambda: harness_contender(model, tokenizer, some, size)

    turns: dict[Any, Any] = race({str(s): contender(s) for s in sizes}, {str(s): 1 for s in sizes})
    return min(sizes, key=lambda size: turns[str(size)].median)


def compare(ours: Likelihoods, theirs: Likelihoods) -> Row:
    """How far apart two sets of log-likelihoods are."""
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    return {
        "largest_relative_difference": max(
            abs(a - b) / max(abs(b), sys.float_info.min) for a, b in pairs
        ),
        "items": len(ours),
        "same_predictions": sum(
            x.index(max(x)) == y.index(max(y)) for x, y in zip(ours, theirs, strict=True)
        ),
    }

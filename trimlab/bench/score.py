"""Scoring test items: the log-likelihood of every choice, against one request per choice."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._device import tokens_at_once
from trimlab.bench._likelihoods import (
    Likelihoods,
    best_harness_likelihoods,
    harness_batch_sizes,
    naive_likelihoods,
)
from trimlab.bench._result import BenchmarkResult
from trimlab.data.batching import batches, collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.evaluation.answers import answer
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject


class ScoreBenchmark(Benchmark):
    """Scores test items.

    The peers run one request per choice: `lm-eval` is lm-evaluation-harness with its fastest batch
    size, `naive` one plain forward pass at a time.

    Args:
        rows: Test items.
        eval_tokens: Most tokens per batch of trimlab; by default 1,024 on a CPU, and what
            the memory of a GPU allows.
        batch_sizes: Batch sizes of the harness; all are tried on some items first, and the
            fastest is timed. By default up to 16 on a CPU and up to 128 on a GPU.
    """

    peers = ("lm-eval", "naive")
    tiny: ClassVar[dict[str, Any]] = {"rows": 6, "batch_sizes": [1, 2]}

    def __init__(
        self,
        rows: int = 100,
        eval_tokens: int | None = None,
        batch_sizes: tuple[int, ...] | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        self.rows = rows
        self.eval_tokens = tokens_at_once(eval_tokens, self.device)
        self.batch_sizes = batch_sizes or harness_batch_sizes(self.device)

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times all log-likelihoods of the items, tokenisation included."""
        model, tokenizer = self.model.load()
        items = self.data.test_items(self.rows)
        settings: JsonObject = {"eval_tokens": self.eval_tokens}
        run_ours = our_likelihoods(SublayerStack(model), tokenizer, items, self.eval_tokens)
        run_peer = None
        if self.against == "lm-eval":
            run_peer, settings["peer_batch_size"] = best_harness_likelihoods(
                model, tokenizer, items, self.batch_sizes
            )
        elif self.against == "naive":
            run_peer = naive_likelihoods(model, tokenizer, items)
        ours, theirs = self.time(lambda: run_ours, run_peer and (lambda: run_peer))
        yield BenchmarkResult(
            what="log-likelihood of every choice",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            same=compare(ours.result, theirs.result) if theirs else {},
            workload={"rows": len(items)},
            settings=settings,
        )


def our_likelihoods(
    stack: SublayerStack, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], tokens: int
) -> Callable[[], Likelihoods]:
    """All choices of an item in one forward pass, in batches of at most `tokens` tokens."""

    def run() -> Likelihoods:
        encoded = [encode(tokenizer, item, tokenizer.model_max_length) for item in items]
        groups = [collate(encoded, group) for group in batches(encoded, tokens)]
        likelihoods = answer(stack, groups, full=True).likelihoods.tolist()
        return [row[: len(item.choices)] for row, item in zip(likelihoods, items, strict=True)]

    return run


def compare(ours: Likelihoods, theirs: Likelihoods) -> JsonObject:
    """Largest relative difference of log-likelihoods, and number of same predictions."""
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

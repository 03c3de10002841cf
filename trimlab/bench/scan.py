"""A calibration scan: the score of every sublayer, against one evaluation per sublayer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._device import tokens_at_once
from trimlab.bench._likelihoods import (
    Likelihoods,
    best_harness_likelihoods,
    harness_batch_sizes,
    naive_likelihoods,
)
from trimlab.bench._result import BenchmarkResult
from trimlab.data.batching import scan_batches
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject
from trimlab.scanning.candidates import Candidate, candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import Scores, lowest
from trimlab.scorers import Scorer, load_scorer


class ScanBenchmark(Benchmark):
    """Scans calibration items.

    The peers `lm-eval` and `naive` evaluate the model once per sublayer, with that sublayer
    bypassed, by lm-evaluation-harness (as the authors' code does) or by one plain forward pass per
    choice. Against `all-scores` two scans of ours are timed: one that stops early, as soon as the
    sublayers that the two-step score drops are known, and one of all scores as the peer.

    Args:
        rows: Calibration items.
        peer_sublayers: Sublayers that the peer evaluates, spread over depth and kind. Its time is
            scaled to all of them: an evaluation costs the same whichever sublayer is bypassed.
        eval_tokens: Most tokens per batch of trimlab; by default 1,024 on a CPU, and what
            the memory of a GPU allows.
        batch_sizes: Batch sizes of the harness to try; by default up to 16 on a CPU and up to 128
            on a GPU.
        drops: Number of sublayers to choose, against `all-scores`.
    """

    peers = ("lm-eval", "naive", "all-scores")
    tiny: ClassVar[dict[str, Any]] = {"rows": 6, "peer_sublayers": 3, "batch_sizes": [2]}

    def __init__(
        self,
        rows: int = 50,
        peer_sublayers: int = 6,
        eval_tokens: int | None = None,
        batch_sizes: tuple[int, ...] | None = None,
        drops: int = 1,
        **common: Any,
    ):
        super().__init__(**common)
        self.rows = rows
        self.eval_tokens = tokens_at_once(eval_tokens, self.device)
        self.batch_sizes = batch_sizes or harness_batch_sizes(self.device)
        self.peer_sublayers, self.drops = peer_sublayers, drops

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times a scan of all scores, or a scan that stops early."""
        model, tokenizer = self.model.load()
        items = self.data.row_sets(calibration=self.rows, dev=1, test=1).calibration
        if self.against == "all-scores":
            yield self._choice(SublayerStack(model), tokenizer, items)
        else:
            yield self._all_scores(model, tokenizer, items)

    def _all_scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
    ) -> BenchmarkResult:
        """Every s_scan and s_norm, tokenisation included."""
        stack = SublayerStack(model)

        def run_ours() -> list[float]:
            encoded = [encode(tokenizer, item, tokenizer.model_max_length) for item in items]
            found = self._scan(stack, encoded)
            assert found.accuracy is not None
            return found.accuracy

        everything = candidates(stack)
        some = evenly_chosen(everything, self.peer_sublayers)
        settings: JsonObject = {"eval_tokens": self.eval_tokens, "peer_sublayers": []}
        run_peer = None
        if self.against == "lm-eval":
            evaluate, settings["peer_batch_size"] = best_harness_likelihoods(
                model, tokenizer, items, self.batch_sizes
            )
            run_peer = evaluations(stack, some, evaluate)
        elif self.against == "naive":
            run_peer = evaluations(stack, some, naive_likelihoods(model, tokenizer, items))
        ours, theirs = self.time(lambda: run_ours, run_peer and (lambda: run_peer))
        same: JsonObject = {}
        if theirs:
            settings["peer_sublayers"] = [str(sublayer) for (sublayer,) in some]
            accuracies = dict(zip(everything, ours.result, strict=True))
            same = compare([accuracies[candidate] for candidate in some], theirs.result, items)
        return BenchmarkResult(
            what=f"scores of all {len(everything)} sublayers",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            factor=len(everything) / len(some),
            same=same,
            workload={"rows": len(items)},
            settings=settings,
        )

    def _choice(
        self, stack: SublayerStack, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
    ) -> BenchmarkResult:
        """The scan that stops early against the scan of all scores."""
        scorer, everything = load_scorer("two_step"), candidates(stack)
        encoded = [encode(tokenizer, item, tokenizer.model_max_length) for item in items]

        def choose(scores: Scores) -> list[int]:
            return lowest(everything, scores, self.drops)

        def run_ours() -> Scan:
            return best_first_scan(stack, encoded, scorer, choose, max_tokens=self.eval_tokens)

        ours, theirs = self.time(lambda: run_ours, lambda: lambda: self._scan(stack, encoded))
        assert theirs is not None
        early, whole = ours.result, theirs.result
        total = len(everything) * len(items)
        return BenchmarkResult(
            what=f"the choice among {len(everything)} sublayers",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            same={
                "same_choice": choose(scorer(early)) == choose(scorer(whole)),
                "share_met": sum(early.items or [total]) / total,
                "share_needed": items_needed(whole, scorer, choose, len(items)) / total,
            },
            workload={"rows": len(items), "drops": self.drops},
            settings={"eval_tokens": self.eval_tokens},
        )

    def _scan(self, stack: SublayerStack, encoded: Sequence[Any]) -> Scan:
        batches = scan_batches(encoded, self.eval_tokens)
        return scan(stack, batches, max_tokens=self.eval_tokens)


def items_needed(whole: Scan, scorer: Scorer, choose: Callable[[Scores], list[int]], n: int) -> int:
    """Least number of evaluations of one item that any exact scan needs for a choice.

    For a chosen candidate these are the items it answers correctly. For any other candidate they
    are as many incorrect items as rule it out even if all other items were correct.

    Args:
        whole: A whole scan for accuracy.
        scorer: A scorer whose scores never rise with accuracy.
        choose: Indices of the chosen candidates, given all scores.
        n: Number of items.
    """
    assert whole.accuracy is not None
    chosen = set(choose(scorer(whole)))
    needed = 0
    for index, accuracy in enumerate(whole.accuracy):
        right = round(n * accuracy / 100)
        if index in chosen:
            needed += right
            continue
        best_case, wrong = list(whole.accuracy), 0
        while wrong < n - right:
            best_case[index] = 100 * ((n - wrong) / n)
            statistics = whole.statistics | {"accuracy": best_case}
            if index not in choose(scorer(replace(whole, statistics=statistics))):
                break
            wrong += 1
        needed += wrong
    return needed


def evenly_chosen(everything: Sequence[Candidate], n: int) -> list[Candidate]:
    """At most n candidates, evenly spaced over the depth, attentions and MLPs in turn."""
    n = min(n, len(everything))
    chosen = [round(i * (len(everything) - 1) / max(1, n - 1)) for i in range(n)]
    # sublayers alternate: even indices are attentions, odd indices MLPs
    return [everything[min(i + (i + k) % 2, len(everything) - 1)] for k, i in enumerate(chosen)]


def evaluations(
    stack: SublayerStack, some: Sequence[Candidate], evaluate: Callable[[], Likelihoods]
) -> Callable[[], list[Likelihoods]]:
    """One whole evaluation per candidate, with the candidate bypassed."""

    def run() -> list[Likelihoods]:
        found = []
        for candidate in some:
            with stack.bypass(*candidate):
                found.append(evaluate())
        return found

    return run


def compare(
    ours: Sequence[float], theirs: Sequence[Likelihoods], items: Sequence[Item]
) -> JsonObject:
    """Pairs of accuracies, ours and the peer's, and the number of equal pairs.

    Args:
        ours: Our accuracy in percent, by candidate.
        theirs: The peer's log-likelihoods, by candidate.
        items: The items.
    """
    pairs = [[a, accuracy(found, items)] for a, found in zip(ours, theirs, strict=True)]
    return {"accuracies": pairs, "same_accuracies": sum(a == b for a, b in pairs)}


def accuracy(likelihoods: Likelihoods, items: Sequence[Item]) -> float:
    """Accuracy in percent."""
    right = sum(x.index(max(x)) == item.gold for x, item in zip(likelihoods, items, strict=True))
    return 100 * (right / len(items))

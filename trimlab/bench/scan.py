"""A calibration scan: the score of every sublayer, against one evaluation for each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimlab.bench._benchmark import Bench, Measurement
from trimlab.bench._timing import Turns
from trimlab.bench.score import (
    Likelihoods,
    best_batch_size,
    harness_contender,
    naive_likelihoods,
)
from trimlab.data.batching import scan_batches
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import Row
from trimlab.scanning.candidates import Candidate, candidates
from trimlab.scanning.early_stopping import best_first_scan
from trimlab.scanning.scan import Scan, scan
from trimlab.scanning.selection import Scores, lowest
from trimlab.scorers import Scorer, load_scorer


class ScanBench(Bench):
    """Scans calibration items.

    The peers evaluate the model once for every sublayer, with that sublayer bypassed:
    lm-evaluation-harness (as the authors' code does), or one plain forward pass per choice.
    Against `all-scores` it is our scan that knows only which sublayers the two-step score drops,
    and the peer is our scan of every score.

    Args:
        rows: Calibration items.
        peer_sublayers: The peer is timed on so many sublayers, spread over depth and kind, and
            its time scaled to all of them: an evaluation costs the same whichever is bypassed.
        eval_tokens: Most tokens of one of our batches.
        batch_sizes: Batch sizes of the harness that are tried.
        drops: Sublayers that are chosen, against `all-scores`.
    """

    peers = ("lm-eval", "naive", "all-scores")

    def __init__(
        self,
        rows: int = 50,
        peer_sublayers: int = 6,
        eval_tokens: int = 1024,
        batch_sizes: tuple[int, ...] = (1, 4, 8, 16),
        drops: int = 1,
        **common: Any,
    ):
        super().__init__(**common)
        self.n, self.eval_tokens, self.batch_sizes = rows, eval_tokens, batch_sizes
        self.peer_sublayers, self.drops = peer_sublayers, drops

    def measure(self) -> Iterator[Measurement]:
        """Every s_scan and s_norm, tokenisation included."""
        model, tokenizer = self.load()
        stack = SublayerStack(model)
        items = self.row_sets(calibration=self.n, dev=1, test=1).calibration
        if self.against == "all-scores":
            yield self._choice(stack, tokenizer, items)
            return

        def ours() -> list[float]:
            encoded = [encode(tokenizer, item, tokenizer.model_max_length) for item in items]
            tokens = self.eval_tokens
            found = scan(stack, scan_batches(encoded, tokens), max_tokens=tokens)
            assert found.accuracy is not None
            return found.accuracy

        everything = candidates(stack)
        some = spread(everything, self.peer_sublayers)
        settings: Row = {"eval_tokens": self.eval_tokens}
        peer = None
        if self.against == "lm-eval":
            size = best_batch_size(model, tokenizer, items, self.batch_sizes)
            settings["peer_batch_size"] = size
            peer = evaluations(stack, some, harness_contender(model, tokenizer, items, size))
        elif self.against == "naive":
            peer = evaluations(stack, some, naive_likelihoods(model, tokenizer, items))
        own_turns, peer_turns = self.race(lambda: ours, peer and (lambda: peer))
        yield Measurement(
            f"scores of all {len(everything)} sublayers",
            own_turns,
            peer_turns,
            self.against,
            factor=len(everything) / len(some),
            same=self._compare(everything, some, items, own_turns, peer_turns),
            question={"rows": len(items)},
            settings=settings | {"peer_sublayers": [str(s) for (s,) in some] if peer else []},
        )

    def _choice(
        self, stack: SublayerStack, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
    ) -> Measurement:
        """The scan that stops early against the one that does not."""
        scorer, everything = load_scorer("two_step"), candidates(stack)
        encoded = [encode(tokenizer, item, tokenizer.model_max_length) for item in items]

        def choose(scores: Scores) -> list[int]:
            return lowest(everything, scores, self.drops)

        def ours() -> Scan:
            return best_first_scan(stack, encoded, scorer, choose, max_tokens=self.eval_tokens)

        def peer() -> Scan:
            tokens = self.eval_tokens
            return scan(stack, scan_batches(encoded, tokens), max_tokens=tokens)

        own_turns, peer_turns = self.race(lambda: ours, lambda: peer)
        assert peer_turns is not None
        own, whole = own_turns.result, peer_turns.result
        total = len(everything) * len(items)
        return Measurement(
            f"the choice among {len(everything)} sublayers",
            own_turns,
            peer_turns,
            self.against,
            same={
                "same_choice": choose(scorer(own)) == choose(scorer(whole)),
                "share_met": sum(own.items or [total]) / total,
                "share_needed": items_needed(whole, scorer, choose, len(items)) / total,
            },
            question={"rows": len(items), "drops": self.drops},
            settings={"eval_tokens": self.eval_tokens},
        )

    def _compare(
        self,
        everything: Sequence[Candidate],
        some: Sequence[Candidate],
        items: Sequence[Item],
        ours: Turns,
        theirs: Turns | None,
    ) -> Row:
        if theirs is None:
            return {}
        accuracies = [accuracy(likelihoods, items) for likelihoods in theirs.result]
        own = dict(zip(everything, ours.result, strict=True))
        pairs = [(own[c], a) for c, a in zip(some, accuracies, strict=True)]
        return {"accuracies": pairs, "same_accuracies": sum(a == b for a, b in pairs)}


def items_needed(whole: Scan, scorer: Scorer, choose: Callable[[Scores], list[int]], n: int) -> int:
    """Items that any exact scan has to run for a choice, however it orders them.

    Of a candidate that is chosen, those that it gets right; of another, so many that it gets wrong
    that it would not be chosen if it were right on all the rest.

    Args:
        whole: A whole scan for accuracy.
        scorer: A scorer whose scores never rise with accuracy.
        choose: Indices of the candidates that are chosen, given all scores.
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
        hoped, wrong = list(whole.accuracy), 0
        while wrong < n - right:
            hoped[index] = 100 * ((n - wrong) / n)
            statistics = whole.statistics | {"accuracy": hoped}
            if index not in choose(scorer(replace(whole, statistics=statistics))):
                break
            wrong += 1
        needed += wrong
    return needed


def spread(everything: Sequence[Candidate], n: int) -> list[Candidate]:
    """So many candidates, evenly over the depth, attentions and MLPs in turn."""
    n = min(n, len(everything))
    chosen = [round(i * (len(everything) - 1) / max(1, n - 1)) for i in range(n)]
    # sublayers alternate: even places are attentions, odd ones MLPs
    return [everything[min(i + (i + k) % 2, len(everything) - 1)] for k, i in enumerate(chosen)]


def evaluations(
    stack: SublayerStack, some: Sequence[Candidate], score: Callable[[], Likelihoods]
) -> Callable[[], list[Likelihoods]]:
    """One whole evaluation for each candidate."""

    def run() -> list[Likelihoods]:
        found = []
        for candidate in some:
            with stack.bypass(*candidate):
                found.append(score())
        return found

    return run


def accuracy(likelihoods: Likelihoods, items: Sequence[Item]) -> float:
    """Accuracy in percent."""
    right = sum(x.index(max(x)) == item.gold for x, item in zip(likelihoods, items, strict=True))
    return 100 * (right / len(items))

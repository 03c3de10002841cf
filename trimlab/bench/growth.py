"""How the cost of a scan and of an epoch grows; `analysis/figure_growth.py` draws it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from trimlab.bench._benchmark import Bench, Measurement
from trimlab.bench.train import own_epoch
from trimlab.data.batching import scan_batches
from trimlab.data.encoding import encode
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import Row
from trimlab.scanning.scan import scan


class Growth(Bench):
    """Times scans and epochs of one model along four axes, one at a time.

    Nobody races: N (the sublayers behind the first N are dropped), calibration items, context
    length and r.

    Args:
        sublayers: Values of N; by default a quarter, half, three quarters and all of what the
            model has. More of `llama-shaped`: `--blocks`.
        items: Numbers of calibration items.
        lengths: Context lengths in tokens; longer contexts lose their oldest tokens.
        ratios: Values of r.
        rows: Training rows of the epochs.
    """

    def __init__(
        self,
        sublayers: tuple[int, ...] | None = None,
        items: tuple[int, ...] = (4, 8, 16, 32),
        lengths: tuple[int, ...] = (32, 64, 128, 256),
        ratios: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0),
        rows: int = 32,
        **common: Any,
    ):
        super().__init__(**common)
        self.sublayers, self.items, self.lengths = sublayers, items, lengths
        self.ratios, self.n = ratios, rows

    def measure(self) -> Iterator[Measurement]:
        """One measurement for each value of each axis."""
        few, short = 8, 64
        most = len(SublayerStack(self.load()[0]))
        quarters = {max(1, quarter * most // 4) for quarter in (1, 2, 3, 4)}
        wanted = self.sublayers or sorted(quarters)
        if max(wanted) > most:  # before anything is timed
            raise InputError(f"{max(wanted)} sublayers asked for, and the model has {most}")
        for n in wanted:
            yield self._scan("sublayers", n, n, few, short)
        for n in self.items:
            yield self._scan("items", n, None, n, short)
        for n in self.lengths:
            yield self._scan("context_tokens", n, None, few, n)
        for r in self.ratios:
            turns, _ = self.race(self._epoch(r), None)
            question: Row = {"axis": "r", "value": r, "rows": self.n}
            yield Measurement("epoch", turns, question=question)

    def _scan(self, axis: str, value: int, n: int | None, items: int, length: int) -> Measurement:
        model, tokenizer = self.load()
        stack = SublayerStack(model)
        n = n or len(stack)
        stack.drop(*list(stack)[n:])
        rows = self.row_sets(calibration=items, dev=1, test=1).calibration
        # the same length everywhere: a text has a token at least
        encoded = [
            encode(tokenizer, replace(item, context=(item.context + " ") * length), length)
            for item in rows
        ]
        calibration = scan_batches(encoded, max_tokens=1024)
        turns, _ = self.race(lambda: lambda: scan(stack, calibration) and None, None)
        question: Row = {
            "axis": axis,
            "value": value,
            "sublayers": n,
            "items": items,
            "context_tokens": length,
        }
        return Measurement("scan", turns, question=question)

    def _epoch(self, r: float) -> Callable[[], Callable[[], float]]:
        return lambda: own_epoch(self.base, self.domain(self.n), r)

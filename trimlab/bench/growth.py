"""Growth of the cost of a scan and of an epoch; `analysis/figure_growth.py` draws it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._device import tokens_at_once
from trimlab.bench._epochs import Epoch, own_epoch
from trimlab.bench._result import BenchmarkResult
from trimlab.bench._timing import BenchmarkCandidate
from trimlab.data.batching import scan_batches
from trimlab.data.encoding import encode
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject
from trimlab.scanning.scan import scan

# items and context tokens of the scans along the other axes
ITEMS, CONTEXT_TOKENS = 8, 64


class GrowthBenchmark(Benchmark):
    """Times scans and epochs of one model along four axes, one at a time.

    The axes are the number of sublayers N (all behind the first N are dropped), calibration items,
    context length and r.

    Args:
        sublayers: Values of N; by default a quarter, half, three quarters and all sublayers of the
            model. `--blocks` gives a shape more.
        items: Numbers of calibration items.
        lengths: Context lengths in tokens; longer contexts lose their oldest tokens.
        ratios: Values of r.
        rows: Training rows of the epochs.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "sublayers": [2, 4],
        "items": [2],
        "lengths": [16],
        "ratios": [0.5],
        "rows": 4,
    }

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
        self.ratios, self.rows = ratios, rows

    def measure(self) -> Iterator[BenchmarkResult]:
        """One result for each value of each axis."""
        total = len(SublayerStack(self.model.load_alone()))
        wanted = self.sublayers or sorted({max(1, k * total // 4) for k in (1, 2, 3, 4)})
        if max(wanted) > total:  # before anything is timed
            raise InputError(f"{max(wanted)} sublayers asked for, and the model has {total}")
        default = {"sublayers": total, "items": ITEMS, "context_tokens": CONTEXT_TOKENS}
        axes = {"sublayers": wanted, "items": self.items, "context_tokens": self.lengths}
        for axis, values in axes.items():
            for value in values:
                size = default | {axis: value}
                ours, _ = self.time(self._scan(**size), None)
                workload: JsonObject = {"axis": axis, "value": value, **size}
                yield BenchmarkResult("scan", ours, workload=workload)
        for r in self.ratios:
            ours, _ = self.time(self._epoch(r), None)
            workload = {"axis": "r", "value": r, "rows": self.rows}
            yield BenchmarkResult("epoch", ours, workload=workload)

    def _scan(self, sublayers: int, items: int, context_tokens: int) -> BenchmarkCandidate:
        """A scan of the first sublayers, with contexts of one length."""
        model, tokenizer = self.model.load()
        stack = SublayerStack(model)
        stack.drop(*list(stack)[sublayers:])
        rows = self.data.row_sets(calibration=items, dev=1, test=1).calibration
        encoded = []
        for item in rows:
            # every text has at least one token, so that the repeated context is long enough
            longer = replace(item, context=(item.context + " ") * context_tokens)
            encoded.append(encode(tokenizer, longer, context_tokens))
        tokens = tokens_at_once(None, self.device)
        calibration = scan_batches(encoded, tokens)

        def run() -> None:
            scan(stack, calibration, max_tokens=tokens)

        return lambda: run

    def _epoch(self, r: float) -> BenchmarkCandidate:
        tokens = tokens_at_once(None, self.device, training=True)

        def candidate() -> Callable[[], Epoch]:
            data = self.data.domain(self.model.tokenizer, self.rows)
            return own_epoch(self.model, data, r, tokens)

        return candidate

"""An epoch of training at r < 1, against full fine-tuning with the Hugging Face Trainer."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._device import rows_at_once, tokens_at_once
from trimlab.bench._epochs import EPOCH_PEERS, Epoch, full_fine_tuning, own_epoch
from trimlab.bench._flops import matmul_rate
from trimlab.bench._result import BenchmarkResult
from trimlab.bench._timing import Turns
from trimlab.data.domain import DomainData
from trimlab.records.rows import JsonObject


class TrainBenchmark(Benchmark):
    """Trains for one epoch.

    By default every (1/r)-th sublayer is trainable, the first included, so that the gradient
    passes through the whole model. The peers train every parameter, on the same rows and with the
    same number of rows per optimizer step: `trainer` is the Hugging Face Trainer with each batch
    padded to its longest text, `trainer-max` the same padded to the longest text of the data set
    (as in the authors' code), `own` our own full fine-tuning.

    Args:
        rows: Training rows.
        r: Sparse update ratio.
        trainable: The trained sublayers: `every_nth`, or the choice of a `scan` (not timed).
        calibration_rows: Calibration items of that scan.
        batch_size: Rows per optimizer step.
        micro_batch_size: Rows per forward pass of the Trainer, which accumulates gradients up to
            `batch_size`: the logits of a whole batch over a large vocabulary fill the memory. By
            default 4 on a CPU and `batch_size` on a GPU.
        train_tokens: Most tokens that trimlab, and the peer `own`, compute at once; by default
            1,024 on a CPU and 4,096 on a GPU.
    """

    peers = EPOCH_PEERS
    tiny: ClassVar[dict[str, Any]] = {"rows": 8, "batch_size": 4, "micro_batch_size": 2}

    def __init__(
        self,
        rows: int = 64,
        r: float = 0.25,
        trainable: Literal["every_nth", "scan"] = "every_nth",
        calibration_rows: int = 8,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        train_tokens: int | None = None,
        **common: Any,
    ):
        super().__init__(**common)
        self.rows, self.r = rows, r
        self.trainable, self.calibration_rows = trainable, calibration_rows
        self.batch_size = batch_size
        self.micro_batch_size = rows_at_once(micro_batch_size, batch_size, self.device)
        self.train_tokens = tokens_at_once(train_tokens, self.device, training=True)

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times the epoch, without loading the model and the rows."""

        def data() -> DomainData:
            return self.data.domain(
                self.model.tokenizer,
                self.rows,
                self.calibration_rows,
                batch_size=self.batch_size,
                eval_tokens=tokens_at_once(None, self.device),
            )

        scanned = self.trainable == "scan" and self.r < 1
        ours, theirs = self.time(
            lambda: own_epoch(self.model, data(), self.r, self.train_tokens, scanned),
            full_fine_tuning(
                self.against, self.model, data, self.micro_batch_size, self.train_tokens
            ),
        )
        losses: JsonObject = {"ours_loss": ours.result.loss}
        if theirs:
            losses["peer_loss"] = theirs.result.loss
        yield BenchmarkResult(
            what="one training epoch",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            same=losses,
            workload={
                "rows": self.rows,
                "r": self.r,
                "batch_size": self.batch_size,
                # recorded workloads without this entry are of every (1/r)-th sublayer
                **({"trainable": "scan"} if self.trainable == "scan" else {}),
            },
            settings={
                "trainable": self.trainable,
                "calibration_rows": self.calibration_rows,
                "peer_micro_batch_size": self.micro_batch_size,
                "train_tokens": self.train_tokens,
            },
            rates=self._rates(ours, theirs),
        )

    def _rates(self, ours: Turns, theirs: Turns | None) -> JsonObject:
        """Tokens and operations per second, and the share of what the device can do.

        The operations are those that our epoch needs. The rate of the device is that of a large
        matrix product in the type of the weights.
        """
        epoch: Epoch = ours.result
        assert epoch.flops is not None
        peak = matmul_rate(self.device, self.model.dtype)
        rates: JsonObject = {"tokens": epoch.tokens}
        rates["ours_tokens_per_second"] = epoch.tokens / ours.median
        if theirs:
            rates["peer_tokens_per_second"] = epoch.tokens / theirs.median
        rates["flops"] = epoch.flops
        rates["matmul_flops_per_second"] = peak
        rates["share_of_matmul_rate"] = epoch.flops / ours.median / peak
        return rates

"""An epoch of training at r < 1, against full fine-tuning with the Hugging Face Trainer."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trimlab.bench._benchmark import Bench, Measurement
from trimlab.data.domain import DomainData
from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer
from trimlab.records.rows import Row
from trimlab.scanning.scan import scan
from trimlab.scanning.selection import most_important
from trimlab.scorers import load_scorer
from trimlab.training.module import DomainLM

IGNORED = -100  # the label of tokens that are not scored

Padding = Literal["dynamic", "maximum"]
PADDING: dict[str, Padding] = {"trainer": "dynamic", "trainer-max": "maximum"}  # by peer


class Train(Bench):
    """Trains for one epoch.

    Every (1/r)-th sublayer is trainable, the first included, so that the gradient has to travel
    through the whole model; or those that a scan of calibration items would choose. The peer
    `trainer` trains every parameter, padding each batch to its longest text (`trainer`) or to the
    longest of the data set (`trainer-max`, as the authors' code does); it takes the same rows in
    batches of the same size. `own` is our own full fine-tuning.

    Args:
        rows: Training rows.
        r: Sparse update ratio.
        trainable: Which sublayers are trained: `every_nth`, or what a `scan` chooses (untimed).
        calibration_rows: Calibration items of that scan.
        batch_size: Rows per optimizer step.
        micro_batch_size: Rows that the Trainer computes at once, with gradient accumulation up
            to `batch_size`: the logits of a whole batch over a large vocabulary fill the memory.
    """

    peers = ("trainer", "trainer-max", "own")

    def __init__(
        self,
        rows: int = 64,
        r: float = 0.25,
        trainable: Literal["every_nth", "scan"] = "every_nth",
        calibration_rows: int = 8,
        batch_size: int = 16,
        micro_batch_size: int = 4,
        **common: Any,
    ):
        super().__init__(**common)
        self.n, self.r = rows, r
        self.trainable, self.calibration_rows = trainable, calibration_rows
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    def measure(self) -> Iterator[Measurement]:
        """Fit with Lightning, and what the peer does; loading the model is not timed."""
        turns, peer_turns = self.race(self._own(self.r), self._peer())
        losses: Row = {"ours_loss": turns.result}
        if peer_turns:
            losses["peer_loss"] = peer_turns.result
        yield Measurement(
            "one training epoch",
            turns,
            peer_turns,
            self.against,
            same=losses,
            question={
                "rows": self.n,
                "r": self.r,
                "batch_size": self.batch_size,
                # where nothing is said it is every (1/r)-th
                **({"trainable": "scan"} if self.trainable == "scan" else {}),
            },
            settings={
                "trainable": self.trainable,
                "calibration_rows": self.calibration_rows,
                "peer_micro_batch_size": self.micro_batch_size,
            },
        )

    def _peer(self) -> Callable[[], Callable[[], float]] | None:
        if self.against is None:
            return None
        if self.against == "own":
            return self._own(1.0)
        padding = PADDING[self.against]
        return lambda: trainer_epoch(
            self.base, self._data(), padding, self.batch_size, self.micro_batch_size
        )

    def _own(self, r: float) -> Callable[[], Callable[[], float]]:
        scanned = self.trainable == "scan" and r < 1
        return lambda: own_epoch(self.base, self._data(), r, scanned)

    def _data(self) -> DomainData:
        return self.domain(self.n, self.calibration_rows, batch_size=self.batch_size)


def own_epoch(base: str, data: DomainData, r: float, scanned: bool = False) -> Callable[[], float]:
    """One epoch with Lightning; returns the loss of the last step.

    Args:
        base: Base model.
        data: Its training rows, and calibration items.
        r: Sparse update ratio; at 1 the embeddings are trained, too.
        scanned: A two-step scan chooses what is trained, in place of every (1/r)-th sublayer.
    """
    module = DomainLM(base, train_embeddings=r == 1)
    trainable = every_nth(list(module.stack), r)
    if scanned:
        found = scan(module.stack, data.calibration_batches())
        trainable = most_important(found.candidates, load_scorer("two_step")(found), r)
    module.freeze_all_but(trainable)

    def run() -> float:
        trainer = L.Trainer(
            max_epochs=1,
            devices=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, datamodule=data)
        return float(trainer.callback_metrics["train_loss"])

    return run


def every_nth(sublayers: Sequence[Sublayer], r: float) -> Sequence[Sublayer]:
    """A share r of the sublayers, evenly spaced, the first included.

    Raises:
        InputError: r is not in (0, 1].
    """
    if not 0 < r <= 1:
        raise InputError(f"--r must be in (0, 1], not {r:g}")
    n = max(1, round(r * len(sublayers)))
    return [sublayers[i * len(sublayers) // n] for i in range(n)]


class _Texts(Dataset[dict[str, list[int]]]):
    """Items as the Trainer takes them: the whole text, and labels where a token is scored."""

    def __init__(self, items: Sequence[EncodedItem]):
        self.rows = []
        for item in items:
            # the last token predicts nothing and is not among ours, so it is put back
            tokens = [*item.tokens, item.targets[-1]]
            labels = [IGNORED] * len(tokens)
            for source, target in zip(item.logit_index, item.targets, strict=True):
                labels[source + 1] = target
            self.rows.append({"input_ids": tokens, "labels": labels})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def padded(rows: Sequence[dict[str, list[int]]], length: int, filler: int) -> dict[str, Tensor]:
    """A batch for the Trainer, padded on the right.  # (B, length) each"""

    def tensor(name: str, value: int) -> Tensor:
        return torch.tensor([[*row[name], *[value] * (length - len(row[name]))] for row in rows])

    mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": tensor("input_ids", filler),
        "labels": tensor("labels", IGNORED),
        "attention_mask": torch.tensor(mask),
    }


def trainer_epoch(
    base: str, data: DomainData, padding: Padding, batch_size: int, micro_batch_size: int
) -> Callable[[], float]:
    """One epoch of full fine-tuning with the Hugging Face Trainer; returns its mean loss."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from trimlab.model.loading import load_model

    model, _ = load_model(base)
    rows = _Texts(data.train_items())
    longest = max(len(row["input_ids"]) for row in rows.rows)
    folder = tempfile.TemporaryDirectory()
    micro = min(micro_batch_size, batch_size)
    if batch_size % micro:
        raise InputError(f"--micro_batch_size {micro} does not divide --batch_size {batch_size}")

    def collate(some: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        length = max(len(row["input_ids"]) for row in some)
        return padded(some, longest if padding == "maximum" else length, filler=0)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder.name,
            num_train_epochs=1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch_size // micro,
            learning_rate=1e-5,
            weight_decay=0.0,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        data_collator=collate,
        train_dataset=rows,
    )

    trainer.remove_callback(PrinterCallback)  # standard output is for the record

    def run() -> float:
        loss = trainer.train().training_loss
        folder.cleanup()
        return loss

    return run

"""One epoch of fine-tuning: ours at any sparse update ratio, and full fine-tuning as the peer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trimlab.bench._flops import TextSizes, training_flops
from trimlab.bench._lightning import BenchmarkLM, lightning_trainer
from trimlab.bench._model import BenchmarkModel
from trimlab.bench._timing import BenchmarkCandidate
from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer
from trimlab.scanning.scan import scan
from trimlab.scanning.selection import most_important
from trimlab.scorers import load_scorer

EPOCH_PEERS = ("trainer", "trainer-max", "own")


class Epoch(NamedTuple):
    """Outcome of an epoch.

    Attributes:
        loss: A loss of the epoch: ours of the last step, the Trainer's mean.
        tokens: Tokens of the training texts, without padding.
        flops: Operations that the epoch needs, see `training_flops`; None for the Trainer.
    """

    loss: float
    tokens: int
    flops: int | None = None


def full_fine_tuning(
    peer: str | None,
    model: BenchmarkModel,
    data: Callable[[], DomainData],
    micro_batch_size: int,
    train_tokens: int,
) -> BenchmarkCandidate | None:
    """One epoch with all parameters trainable; its result is an `Epoch`.

    Args:
        peer: One of `EPOCH_PEERS`: the Hugging Face Trainer with each batch padded to its longest
            text (`trainer`) or to the longest text of the data set (`trainer-max`, as in the
            authors' code), or our own training loop (`own`). None: no peer.
        model: The model.
        data: Makes the data of one turn.
        micro_batch_size: Rows per forward pass of the Trainer.
        train_tokens: Most tokens that `own` computes at once: as many as the side it is timed
            against.
    """
    if peer is None:
        return None
    if peer == "own":
        return lambda: own_epoch(model, data(), 1.0, train_tokens)

    from trimlab.bench._trainer import trainer_epoch  # imports accelerate

    def candidate() -> Callable[[], Epoch]:
        rows = data()
        run = trainer_epoch(model, rows, micro_batch_size, peer == "trainer-max")
        return lambda: Epoch(run(), _tokens(rows))

    return candidate


def own_epoch(
    model: BenchmarkModel,
    data: DomainData,
    r: float,
    train_tokens: int,
    scanned: bool = False,
) -> Callable[[], Epoch]:
    """One epoch with Lightning, ready to run.

    Args:
        model: The model.
        data: Training rows, and calibration items if `scanned`.
        r: Sparse update ratio; at 1 the embeddings are trained, too.
        train_tokens: Most tokens that are computed at once, see `DomainLM`.
        scanned: Train the most important sublayers by a two-step scan instead of evenly spaced
            ones.
    """
    module = BenchmarkLM(model, train_embeddings=r == 1, train_tokens=train_tokens)
    trainable = evenly_spaced(list(module.stack), r)
    if scanned:
        found = scan(module.stack, data.calibration_batches(), max_tokens=data.eval_tokens)
        trainable = most_important(found.candidates, load_scorer("two_step")(found), r)
    module.freeze_all_but(trainable)
    sizes = TextSizes.of(data.train_items())
    flops = training_flops(module.stack, module.trainable, sizes, embeddings=r == 1)
    trainer = lightning_trainer(model, max_epochs=1, limit_val_batches=0, enable_progress_bar=False)

    def run() -> Epoch:
        trainer.fit(module, datamodule=data)
        return Epoch(float(trainer.callback_metrics["train_loss"]), _tokens(data), flops)

    return run


def _tokens(data: DomainData) -> int:
    # an encoded item lacks the last token of its text
    return sum(len(item.tokens) + 1 for item in data.train_items())


def evenly_spaced(sublayers: Sequence[Sublayer], r: float) -> Sequence[Sublayer]:
    """A share r of the sublayers, evenly spaced, the first included.

    Raises:
        InputError: r is not in (0, 1].
    """
    if not 0 < r <= 1:
        raise InputError(f"--r must be in (0, 1], not {r:g}")
    n = max(1, round(r * len(sublayers)))
    return [sublayers[i * len(sublayers) // n] for i in range(n)]

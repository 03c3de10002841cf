"""One epoch of fine-tuning: ours at any sparse update ratio, and full fine-tuning as the peer."""

from collections.abc import Callable, Sequence

import lightning as L

from trimlab.bench._timing import BenchmarkCandidate
from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer
from trimlab.scanning.scan import scan
from trimlab.scanning.selection import most_important
from trimlab.scorers import load_scorer
from trimlab.training.module import DomainLM

EPOCH_PEERS = ("trainer", "trainer-max", "own")


def full_fine_tuning(
    peer: str | None, base: str, data: Callable[[], DomainData], micro_batch_size: int
) -> BenchmarkCandidate | None:
    """One epoch with all parameters trainable.

    Args:
        peer: One of `EPOCH_PEERS`: the Hugging Face Trainer with each batch padded to its longest
            text (`trainer`) or to the longest text of the data set (`trainer-max`, as in the
            authors' code), or our own training loop (`own`). None: no peer.
        base: Base model.
        data: Makes the data of one turn.
        micro_batch_size: Rows per forward pass of the Trainer.
    """
    if peer is None:
        return None
    if peer == "own":
        return lambda: own_epoch(base, data(), r=1.0)

    from trimlab.bench._trainer import trainer_epoch  # imports accelerate

    pad_to_longest = peer == "trainer-max"
    return lambda: trainer_epoch(base, data(), micro_batch_size, pad_to_longest)


def own_epoch(base: str, data: DomainData, r: float, scanned: bool = False) -> Callable[[], float]:
    """One epoch with Lightning, ready to run; it returns the loss of the last step.

    Args:
        base: Base model.
        data: Training rows, and calibration items if `scanned`.
        r: Sparse update ratio; at 1 the embeddings are trained, too.
        scanned: Train the most important sublayers by a two-step scan instead of evenly spaced
            ones.
    """
    module = DomainLM(base, train_embeddings=r == 1)
    trainable = evenly_spaced(list(module.stack), r)
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


def evenly_spaced(sublayers: Sequence[Sublayer], r: float) -> Sequence[Sublayer]:
    """A share r of the sublayers, evenly spaced, the first included.

    Raises:
        InputError: r is not in (0, 1].
    """
    if not 0 < r <= 1:
        raise InputError(f"--r must be in (0, 1], not {r:g}")
    n = max(1, round(r * len(sublayers)))
    return [sublayers[i * len(sublayers) // n] for i in range(n)]

"""One fit in a run folder: from its last checkpoint if there is one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from trimlab.data.domain import DomainData
from trimlab.errors import InputError, one_line
from trimlab.records.rows import JsonObject
from trimlab.training.checkpoints import LAST, AtomicCheckpointIO
from trimlab.training.interruption import CheckpointInEpoch
from trimlab.training.module import DomainLM

# makes a Lightning trainer from the settings of the config and further arguments of `L.Trainer`
MakeTrainer = Callable[..., L.Trainer]

CHECKPOINTS = "checkpoints"  # in the folder of a fit

# one device, and no summary, sanity check or sparse logging: a run does these itself
TRAINER_DEFAULTS: JsonObject = {
    "devices": 1,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


def make_trainer(**settings: Any) -> L.Trainer:
    """Makes a Lightning trainer.

    Raises:
        InputError: Settings that cannot work, such as a GPU that is not there.
    """
    try:
        return L.Trainer(**settings)
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"trainer: {one_line(error)}") from error


def fit(
    make_trainer: MakeTrainer,
    module: DomainLM,
    data: DomainData,
    folder: Path,
    callbacks: Sequence[Callback],
    *,
    resume: Path | None,
    **settings: Any,
) -> int:
    """Fits a model.

    Args:
        make_trainer: Makes the trainer.
        module: The model, as it was before its first epoch.
        data: The domain.
        folder: Folder for the checkpoint of the last epoch and for a CSV log of losses and scores.
        callbacks: Callbacks, called before the checkpoint is written.
        resume: Checkpoint to resume from, see `load_last`.
        **settings: Further arguments of the trainer.

    Returns:
        Optimizer steps, those before a resumption included.
    """
    saver = ModelCheckpoint(
        dirpath=folder / CHECKPOINTS,
        filename=Path(LAST).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = make_trainer(
        default_root_dir=folder,
        callbacks=[*callbacks, CheckpointInEpoch(folder / CHECKPOINTS / LAST), saver],
        logger=CSVLogger(folder, name="logs"),
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    path = None if resume is None else str(resume)
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    data.trainer = None  # which holds the module, its gradients and its optimizer
    module.merge_adapters()
    return trainer.global_step

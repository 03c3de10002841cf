"""One fit in a run folder: from its last checkpoint if there is one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from trimlab import ranks
from trimlab.data.domain import DomainData
from trimlab.errors import InputError, one_line
from trimlab.records.rows import JsonObject
from trimlab.runs.processes import processes_to_start
from trimlab.training.checkpoints import LAST, AtomicCheckpointIO
from trimlab.training.csv_logger import AtomicCSVLogger
from trimlab.training.interruption import CheckpointInEpoch
from trimlab.training.module import DomainLM
from trimlab.training.strategies import Distributed, load_strategy

# makes a Lightning trainer from the settings of the config and further arguments of `L.Trainer`
MakeTrainer = Callable[..., L.Trainer]

CHECKPOINTS = "checkpoints"  # in the folder of a fit

# one device by default, and no summary, sanity check or sparse logging: a run does these itself
TRAINER_DEFAULTS: JsonObject = {
    "devices": 1,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}

# where a run computes: its result is the same, and another number of processes may go on with it
PLACES: JsonObject = {"devices": 1, "num_nodes": 1, "strategy": "auto"}


def make_trainer(**settings: Any) -> L.Trainer:
    """Makes a Lightning trainer.

    With one device, every strategy is the same.

    Args:
        **settings: Its settings; the strategy is a file in `trimlab/training/strategies`, or `auto`
            for DDP.

    Raises:
        InputError: Settings that cannot work, such as a GPU that is not there.
    """
    name = settings.pop("strategy", "auto")
    settings["use_distributed_sampler"] = False  # batches are divided where they are made
    strategy = None if name == "auto" else load_strategy(name)
    try:
        trainer = L.Trainer(**settings)
        if trainer.world_size > 1:
            trainer = L.Trainer(**settings, strategy=strategy or load_strategy("ddp"))
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise InputError(f"trainer: {one_line(error)}") from error
    return trainer


def join(trainer: L.Trainer) -> None:
    """Meets the other processes of a run, where there are any.

    Raises:
        InputError: They have not been started.
    """
    if processes_to_start(trainer):
        raise InputError(
            f"trainer.devices {trainer.num_devices} needs as many processes: use `trimlab fit`, or "
            f"start the script with torchrun --nproc-per-node {trainer.num_devices}"
        )
    if isinstance(trainer.strategy, Distributed):
        trainer.strategy.join()


def placed(config: JsonObject, trainer: L.Trainer) -> JsonObject:
    """A config with where its trainer computes, which is no part of the config of a run."""
    strategy = trainer.strategy
    if not isinstance(strategy, Distributed):
        return config
    places = {"devices": trainer.world_size, "strategy": strategy.name}
    return config | {"trainer": config["trainer"] | places}


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
        logger=AtomicCSVLogger(folder, name="logs"),
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    path = None if resume is None else str(resume)
    trainer.fit(module, datamodule=data, ckpt_path=ranks.agreed(path), weights_only=True)
    data.trainer = None  # which holds the module, its gradients and its optimizer
    module.merge_adapters()
    return trainer.global_step

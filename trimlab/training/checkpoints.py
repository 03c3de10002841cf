"""Checkpoints: written as a whole, read without running anything that they hold."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from trimlab.errors import InputError
from trimlab.records.rows import Row
from trimlab.training.module import DomainLM


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a reader finds a whole one or none.

    Lightning's own writer moves a file from the system's temporary folder, which is a copy where
    that folder is on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves a checkpoint."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)  # on a full disk it would take the room that is left


def checkpoint_folder(trainer: L.Trainer) -> Path:
    """The folder of a run's checkpoints."""
    return Path(trainer.default_root_dir) / "checkpoints"


def restore(module: DomainLM, checkpoint: Path) -> None:
    """Brings a fresh module to the state of a checkpoint: drops, freezing, weights.

    Raises:
        InputError: The checkpoint is damaged, foreign, or of another base model.
    """
    state = load_checkpoint(checkpoint)
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"], strict=False)


def load_checkpoint(path: Path) -> Row:
    """Reads a checkpoint without running anything that it may hold.

    Raises:
        InputError: The file is damaged, or no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is missing, damaged or no checkpoint; remove {path.parent} to start over"
        ) from error
    if "trimlab" not in state:
        raise InputError(f"{path} was not written by trimlab; remove {path.parent} to start over")
    return state

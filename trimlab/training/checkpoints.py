"""Checkpoints: written atomically, read without running code that they hold.

A fit keeps two: that of its last epoch and, should that one be damaged, the one before.
"""

import sys
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from trimlab.errors import InputError
from trimlab.files import atomic_file
from trimlab.records.rows import JsonObject
from trimlab.training.module import DomainLM

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # what a fit resumes from


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and keeps the one that the last one replaces.

    Lightning's own writer moves a file from the system's temporary folder, which is a copy where
    that folder is on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Saves a checkpoint."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        previous = path.with_name(PREVIOUS)
        if path.name == LAST:  # never three at once: they are the largest files of a run
            previous.unlink(missing_ok=True)
        with atomic_file(path) as part:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
            if path.name == LAST and path.exists():
                path.replace(previous)


def load_last(folder: Path) -> tuple[Path, JsonObject] | None:
    """Reads the checkpoint that a fit resumes from.

    Args:
        folder: The folder of the checkpoints.

    Returns:
        The last one and what it holds, or the one before if the last one is missing or damaged,
        which is said; None where there is none yet.

    Raises:
        InputError: Those that are there are damaged.
    """
    found = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    for path in found:
        try:
            return path, load_checkpoint(path)
        except InputError as error:
            if path == found[-1]:
                raise
            print(f"{error}; going on from {found[-1].name}", file=sys.stderr)
    return None


def checkpoint_folder(trainer: L.Trainer) -> Path:
    """The folder of a run's checkpoints."""
    return Path(trainer.default_root_dir) / "checkpoints"


def restore(module: DomainLM, checkpoint: Path) -> None:
    """Gives a fresh module the state of a checkpoint: drops, freezing, weights.

    Adapters are merged into the weights: the module holds an ordinary model.

    Raises:
        InputError: The checkpoint is damaged, of another program, or of another base model.
    """
    state = load_checkpoint(checkpoint)
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"], strict=False)
    module.merge_adapters()


def load_checkpoint(path: Path) -> JsonObject:
    """Reads a checkpoint without running code that it may hold.

    Returns:
        Lightning's checkpoint; trimlab's part of it is under the key `trimlab`.

    Raises:
        InputError: The file is missing, damaged, or no checkpoint of trimlab.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch compares no checksum
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is missing, damaged or no checkpoint; remove {path.parent} to start over"
        ) from error
    if not isinstance(state, dict) or "trimlab" not in state:
        raise InputError(f"{path} was not written by trimlab; remove {path.parent} to start over")
    return state

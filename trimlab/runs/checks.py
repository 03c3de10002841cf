"""Checks at the start of a run, of everything that would otherwise fail at its end."""

import shutil
import tempfile
from pathlib import Path

import torch

from trimlab.algorithm import Trim
from trimlab.errors import InputError, one_line
from trimlab.files import check_writable
from trimlab.model.loading import base_dtype
from trimlab.planning.device import check_device_memory
from trimlab.records.rows import JsonObject
from trimlab.records.run_summary import RunSummary
from trimlab.runs.compare import FULL_DEPTH
from trimlab.runs.folder import RunFolder
from trimlab.runs.options import RunOptions
from trimlab.training.lora import adapter_bytes
from trimlab.training.module import DomainLM

OPTIMIZER = 3  # a checkpoint of training: the weights and two moments of AdamW


def export_dtype(base: str, options: RunOptions) -> torch.dtype:
    """The type of the exported weights: the one asked for, or that of the base model on disk."""
    if options.export_dtype == "auto":
        return base_dtype(base)
    return getattr(torch, options.export_dtype)


def check_outputs(
    module: DomainLM,
    trim: Trim,
    options: RunOptions,
    folder: RunFolder,
    summary: RunSummary,
    config: JsonObject,
) -> None:
    """Refuses a run whose checkpoints or exports could not be written, or that a GPU cannot hold.

    Args:
        module: The module, untrimmed.
        trim: Algorithm 1.
        options: The options of the run.
        folder: The run folder, which exists.
        summary: What has been done already, of a run that is resumed.
        config: The resolved config of the run.

    Raises:
        InputError: Two ratios have the same name, a folder cannot be written, the tokenizer cannot
            be saved, or the disk or the GPU has too little room.
    """
    _check_names(trim.save_at)
    if options.shared is not None:
        check_writable(options.shared)
    folder.check_parts()
    _check_tokenizer(module, folder.path)
    _check_disk(module, trim, options, folder, summary)
    if summary.data is not None and module.model.device.type == "cuda":
        sets, device = summary.data["sets"], module.model.device
        check_device_memory(module.model.config, config, sets, device)


def _check_names(ratios: list[float]) -> None:
    names = [f"{ratio:g}" for ratio in ratios]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"trim.save_at and the target hold several ratios that are written as {name}, and "
                "their models would have the same folder: leave one of them"
            )


def _check_tokenizer(module: DomainLM, folder: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as place:
            module.tokenizer.save_pretrained(place)
    except Exception as error:
        raise InputError(
            f"the tokenizer of {module.base} can be read but not saved to {folder}, so that no "
            f"trimmed model could be written: {one_line(error)}"
        ) from error


def _check_disk(
    module: DomainLM, trim: Trim, options: RunOptions, run: RunFolder, summary: RunSummary
) -> None:
    """Compares the largest size of what is left to write with the free disk space.

    Baselines to compare with are not counted.
    """
    folder = run.path
    trimming, comparing = summary.stopped_because is None, summary.fine_tuned is None
    checkpoints = trimming * checkpoint_bytes(module, trim)
    exporting = summary.models is None
    exports = exporting * export_bytes(module, trim, export_dtype(module.base, options))
    if options.trim_from == "fine_tuned":  # in all sublayers, and before there is anything else
        if comparing:
            kept = module.stack.model_bytes  # what trimming starts from
            first = (fine_tuning_bytes(module), kept)
            checkpoints, exports = max(first, (checkpoints, exports + kept), key=sum)
    elif options.full_depth and comparing:
        checkpoints += full_depth_bytes(module, trim)
    # what a resumed run has written is replaced, but for the model that trimming starts from
    parts = (run.checkpoints, run.models)
    files = (p for part in parts for p in part.rglob("*") if p.is_file())
    there = sum(p.stat().st_size for p in files if run.models / FULL_DEPTH not in p.parents)
    free = shutil.disk_usage(folder).free + (trimming or exporting) * there
    if free < checkpoints + exports:
        raise InputError(
            f"{folder} needs up to {_size(checkpoints + exports)} (checkpoints "
            f"{_size(checkpoints)}, models {_size(exports)}) and has room for {_size(free)}: free "
            "some space, choose another run.dir, or lower trim.r or the number of trim.save_at"
        )


def checkpoint_bytes(module: DomainLM, trim: Trim) -> int:
    """Most bytes of the checkpoints of trimming; a new one is written beside the one it replaces.

    Args:
        module: The module, untrimmed.
        trim: Algorithm 1.
    """
    last = 2 * OPTIMIZER * _trained_bytes(module, trim.r)
    kept = (2 + len(trim.save_at)) * _trained_bytes(module, trim.r)  # good.ckpt is replaced, too
    return int(last + kept)


def full_depth_bytes(module: DomainLM, trim: Trim) -> int:
    """Bytes of the checkpoint of full depth beside those of trimming.

    While it is written, the room in which those of trimming were replaced is free.

    Args:
        module: The module, untrimmed.
        trim: Algorithm 1.
    """
    return int(OPTIMIZER * _trained_bytes(module, trim.r))


def fine_tuning_bytes(module: DomainLM) -> int:
    """Most bytes of the checkpoints of a fine-tuning in all sublayers, before the first drop.

    Args:
        module: The module, untrimmed.
    """
    return int(2 * OPTIMIZER * _trained_bytes(module, r=1.0))


def _trained_bytes(module: DomainLM, r: float) -> float:
    if module.lora_rank:
        return r * adapter_bytes(module.stack, module.lora_rank)
    layers = module.stack.bytes_of(*module.stack.original)
    return r * layers + module.train_embeddings * (module.stack.model_bytes - layers)


def export_bytes(module: DomainLM, trim: Trim, dtype: torch.dtype) -> int:
    """Most bytes of the exported models.

    Args:
        module: The module, untrimmed.
        trim: Algorithm 1.
        dtype: The type of the exported weights.
    """
    if trim.bypass != "residual":
        return 0  # an ablation is not exported
    stack = module.stack
    layers = stack.bytes_of(*stack.original)
    ratios = list(trim.save_at)
    if trim.rules.layer_memory is None:  # the final model has a ratio that nobody knows yet
        ratios.append(1.0)
    # a sublayer that is dropped alone may leave one of zeros
    stored = [1.0 if trim.granularity == "sublayer" else ratio for ratio in ratios]
    everything = sum(stack.model_bytes - layers + share * layers for share in stored)
    return int(everything * dtype.itemsize / stack.model.dtype.itemsize)


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB"

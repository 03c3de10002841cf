"""The folder of a base model in a bundle."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trimlab.errors import InputError
from trimlab.model.adapters import model_weights
from trimlab.model.loading import model_folder

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja")  # tokenizer and configs


def copy_model(name: str, target: Path, dtype: str | None = None) -> None:
    """Copies a base model.

    Args:
        name: As for `load_model`. A hub model is downloaded, an embedded one built, if need be.
        target: The new folder; a Hugging Face folder in the end.
        dtype: Type of its weights; as they are stored if not given.

    Raises:
        InputError: There is no such model, it runs code of its own, or a weight is too large for
            the type.
    """
    folder = model_folder(name)
    weights = model_weights(folder)
    if not weights:
        raise InputError(f"{name} has no *.safetensors weights to bundle")
    target.mkdir(parents=True)
    for pattern in _BESIDE_WEIGHTS:
        for path in folder.glob(pattern):
            shutil.copyfile(path, target / path.name)
    for path in weights:
        if dtype is None:
            shutil.copyfile(path, target / path.name)
        else:
            _cast(path, target / path.name, _DTYPES[dtype])
    if dtype is not None:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)  # the earlier name
        config["dtype"] = dtype
        (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _cast(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Copies a file of weights in another type; whole numbers stay what they are."""
    weights = load_file(source)
    for name, weight in weights.items():
        if not weight.is_floating_point():
            continue
        weights[name] = weight.to(dtype)
        if weight.isfinite().all() and not weights[name].isfinite().all():
            raise InputError(
                f"{name} of {source} has weights beyond the range of {dtype}; bundle the model "
                "with --dtype bfloat16"
            )
    save_file(weights, target, {"format": "pt"})

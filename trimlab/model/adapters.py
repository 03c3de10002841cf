"""Folders with an adapter (LoRA and others, written by PEFT).

Where PEFT is importable, Transformers applies an adapter that it finds beside whole weights, and
merged models often have one left over: it would be applied a second time. Whole weights are loaded
as they are.
"""

import json
from pathlib import Path
from typing import Any

from trimlab.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"

# arguments of `from_pretrained`: the search for an adapter ends in a subfolder that does not exist
WITHOUT_ADAPTER: dict[str, Any] = {"adapter_kwargs": {"subfolder": "no-adapter"}}


def model_weights(folder: Path) -> list[Path]:
    """The `*.safetensors` of a folder that belong to the model, and not to an adapter."""
    return sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_"))


def has_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, alone or beside the weights of a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def check_not_only_adapter(folder: Path, name: str) -> None:
    """Refuses a folder with an adapter and no weights of a model.

    Args:
        folder: The folder.
        name: The name that it is loaded by, for the message.

    Raises:
        InputError: The folder holds an adapter alone; the message says how to merge it.
    """
    if not has_adapter(folder) or model_weights(folder):
        return
    if (folder / "config.json").exists() and not any(folder.glob("adapter_*.safetensors")):
        return  # no weights were downloaded, for a tokenizer alone
    try:
        about = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = str(about["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        base = "BASE"
    raise InputError(
        f"{name} holds only an adapter of {base}, not a model: merge it first, with peft, as in "
        f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), {name!r})"
        ".merge_and_unload().save_pretrained('MERGED'), save the tokenizer of the base there, too, "
        "and name MERGED"
    )

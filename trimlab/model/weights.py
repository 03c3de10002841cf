"""The weights of a folder that has been checked, loaded by Transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trimlab.errors import InputError, one_line
from trimlab.model.adapters import WITHOUT_ADAPTER, model_weights
from trimlab.model.device import Placement
from trimlab.model.embedded import embedded_names
from trimlab.model.notes import note_once
from trimlab.model.soundness import check_finite
from trimlab.model.text_part import TEXT_NAMES, text_config


def load_weights(
    folder: Path,
    name: str,
    config: PreTrainedConfig,
    place: Placement,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedConfig]:
    """The model of a folder and its config; of a multimodal model, those of its text part.

    Args:
        folder: The folder.
        name: The name that it is loaded by.
        config: Its config, changed in place.
        place: The type of the weights in memory, and where they will compute: quantised weights
            are loaded there, since their kernels depend on it; others on the CPU.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        InputError: The weights are damaged, incomplete or not finite.
    """
    more: dict[str, Any] = dict(WITHOUT_ADAPTER)
    if (text := text_config(config, name)) is not None:
        config, more["key_mapping"] = text, TEXT_NAMES
        note_once(f"{name} is multimodal: its language model alone is loaded, for text")
    if place.device.type != "cpu" and getattr(config, "quantization_config", None) is not None:
        more["device_map"] = {"": str(place.device)}
    # A config.json can name code on the hub as its attention or its experts. With None,
    # transformers takes its own: SDPA, or eager where the architecture has no SDPA.
    config._attn_implementation = config._experts_implementation = None
    with explained(name, folder):
        _check_depth(config, folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=place.dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **more,
        )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{name} lacks {len(missing)} weights that it needs, such as {missing[0]}")
    if text is not None:
        model._weight_conversions = []  # its inverse, for saving, would need the vision tower
    _prepare(model, name)
    return model, config


def _check_depth(config: PreTrainedConfig, folder: Path) -> None:
    """Refuses a config with more blocks than its files have tensors, before these are made."""
    tensors = 0
    for path in model_weights(folder):
        with safe_open(path, "pt") as file:
            tensors += len(file.keys())
    blocks = getattr(config, "num_hidden_layers", 0)
    if blocks > tensors:
        raise ValueError(f"its config has {blocks} blocks, and its files hold {tensors} tensors")


def _prepare(model: PreTrainedModel, name: str) -> None:
    """Makes a loaded model independent of its files, and refuses weights that are not finite."""
    # Weights are views of the memory-mapped file, whose pages stay as long as one view does. A
    # copy of the layers in another layout (the scan makes one) would leave the model there twice.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    check_finite(model, name)
    module: Any
    for module in model.modules():
        # bitsandbytes: otherwise the first forward pass moves the scales from the weight to the
        # module, and replicas that share the weight (`workers`) have none
        if hasattr(module, "init_8bit_state"):
            module.init_8bit_state()
    # A config may say that the head is tied where the file holds two matrices
    head: Any = model.get_output_embeddings()
    embeddings: Any = model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        model.config.tie_word_embeddings = False
    # exports name their base by this; it would be the path of a cache folder otherwise
    model.config.name_or_path = name


@contextmanager
def explained(name: str, folder: Path) -> Iterator[None]:
    """Turns any error of transformers into an `InputError` of one line about the model."""
    try:
        yield
    # any type: a damaged file or config fails at its first use
    except BaseException as error:
        # a library in Rust that panics raises one that is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        again = f" (delete {folder} to build it again)" if name in embedded_names() else ""
        raise InputError(f"cannot load {name}: {one_line(error)}{again}") from error

"""The config of a base model, and nothing else of it."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, PreTrainedConfig

from trimlab.errors import InputError, one_line
from trimlab.model.embedded import embedded_names, embedded_path
from trimlab.model.family import family_of
from trimlab.model.loading import HUB_ID
from trimlab.model.shape import shape_config, shape_names
from trimlab.model.text_part import text_config


def base_config(base: str) -> PreTrainedConfig:
    """The config of a base model. Of a hub model, config.json alone is downloaded.

    Args:
        base: An embedded model, a local folder, or a hub id (`owner/name@revision`).

    Raises:
        InputError: There is no such model, the hub is not reachable, or the family is not
            supported.
    """
    config = _read(base)
    config = text_config(config, base) or config
    family_of(config)
    return config


def built_folder(base: str) -> Path | None:
    """The folder of a model whose tokenizer is at hand, without building or downloading one."""
    folder = embedded_path(base) if base in embedded_names() else Path(base).expanduser()
    return folder if base and folder.is_dir() else None


def _read(base: str) -> PreTrainedConfig:
    folder = Path(base).expanduser()
    if base in embedded_names() and base in shape_names():
        return shape_config(base)
    if base and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{base} has no config.json, which is all that a plan reads")
        return _parsed(folder, base)
    if hub := HUB_ID.fullmatch(base):
        return _parsed(_hub_config(hub["repo"], hub["revision"]).parent, base)
    raise InputError(
        f"there is no model {base!r}: name a local folder, a hub id (owner/name), an embedded "
        f"model ({', '.join(embedded_names())}), or give --shape ({', '.join(shape_names())})"
    )


def _parsed(folder: Path, base: str) -> PreTrainedConfig:
    # any type of error: a damaged config fails where it is first used
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise InputError(f"cannot read config.json of {base}: {one_line(error)}") from error


def _hub_config(repo: str, revision: str | None) -> Path:
    # no network, no such model, no permission: types belong to the HTTP library of the client
    try:
        return Path(hf_hub_download(repo, "config.json", revision=revision))
    except Exception as error:
        raise InputError(
            f"the Hugging Face hub does not give config.json of {repo} ({one_line(error)}): give "
            f"--shape ({', '.join(shape_names())}), or put its config.json in a folder and name "
            "that with --model.base"
        ) from error

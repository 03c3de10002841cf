"""ONNX Runtime on the CPU, for folders with a `model.onnx`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimlab.engines._engine import Engine, LoadedModel
from trimlab.errors import InputError, one_line

WEIGHTS = "model.onnx"
TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxRuntimeModel(LoadedModel):
    """A graph in a session of ONNX Runtime.

    Its inputs and outputs are those that Transformers' exporters name: what is in the KV cache,
    `input.past_key_values.*`, comes back longer as `output.past_key_values.*`.

    Args:
        session: The session.
    """

    engine = "onnxruntime"

    def __init__(self, session: Any):
        self.session: Any = session
        caches = [port for port in session.get_inputs() if "past_key_values" in port.name]
        self._returned = {port.name.replace("input.", "output.", 1): port.name for port in caches}
        self._outputs = [port.name for port in session.get_outputs()]
        self.dtype = TYPES[caches[0].type]
        kind = np.float16 if self.dtype == torch.float16 else np.float32
        self._empty = {port.name: self._value(_empty(port.shape, kind)) for port in caches}

    def logits(self, ids: Tensor, first: int = 0) -> Tensor:
        """See `LoadedModel.logits`."""
        found, _ = self._run(ids.numpy(), np.arange(first, ids.shape[1]), self._empty, 0)
        return torch.from_numpy(found)

    def decode(self, prompt_ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """See `LoadedModel.decode`."""
        ids, cache, seen = np.array([prompt_ids], dtype=np.int64), self._empty, 0
        for _ in range(new_tokens):
            logits, cache = self._run(ids, np.array([ids.shape[1] - 1]), cache, seen)
            seen += ids.shape[1]
            ids = logits[:, -1:].argmax(-1)
            yield int(ids)

    def close(self) -> None:
        """See `LoadedModel.close`."""
        self.session = None

    def _run(
        self, ids: np.ndarray, positions: np.ndarray, cache: dict[str, Any], seen: int
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Logits at some positions, and the cache after the tokens; nothing of it is copied."""
        binding = self.session.io_binding()
        mask = np.ones((1, seen + ids.shape[1]), dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": positions}
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._value(array))
        for name, value in cache.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        found = dict(zip(self._outputs, binding.get_outputs(), strict=True))
        cache = {name: found[returned] for returned, name in self._returned.items()}
        return found["logits"].numpy().astype(np.float32), cache

    @staticmethod
    def _value(array: np.ndarray) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _empty(shape: Sequence[Any], kind: Any) -> np.ndarray:
    """Nothing of a cache of (1, heads, T, features); of its sizes, T alone has no number."""
    _, heads, _, features = shape
    return np.zeros((1, int(heads), 0, int(features)), dtype=kind)


class OnnxRuntime(Engine):
    """Runs ONNX."""

    package, extra, weights = "onnxruntime", "onnx", WEIGHTS

    def load(
        self, folder: Path, *, threads: int | None = None, dtype: torch.dtype | None = None
    ) -> OnnxRuntimeModel:
        """See `Engine.load`; the graph's own types are computed in."""
        self.check()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            session = onnxruntime.InferenceSession(
                str(folder / WEIGHTS), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's own classes, of no common base
            raise InputError(f"ONNX Runtime cannot load {folder}: {one_line(error)}") from error
        return OnnxRuntimeModel(session)

"""OpenVINO on the CPU, for folders with an `openvino_model.xml`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimlab.engines._engine import Engine, LoadedModel
from trimlab.errors import InputError, one_line

WEIGHTS = "openvino_model.xml"
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class OpenVINOModel(LoadedModel):
    """A graph that keeps its KV cache between calls.

    Args:
        compiled: The compiled graph.
    """

    engine = "openvino"

    def __init__(self, compiled: Any):
        self.dtype = TYPES[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]
        self.request: Any = compiled.create_infer_request()

    def logits(self, ids: Tensor, first: int = 0) -> Tensor:
        """See `LoadedModel.logits`."""
        self.request.reset_state()
        return torch.from_numpy(self._run(ids.numpy(), np.arange(first, ids.shape[1]), 0))

    def decode(self, prompt_ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """See `LoadedModel.decode`; the model decodes one text at a time."""
        self.request.reset_state()
        ids, seen = np.array([prompt_ids], dtype=np.int64), 0
        for _ in range(new_tokens):
            logits = self._run(ids, np.array([ids.shape[1] - 1]), seen)
            seen += ids.shape[1]
            ids = logits[:, -1:].argmax(-1)
            yield int(ids)

    def close(self) -> None:
        """See `LoadedModel.close`."""
        self.request = None

    def _run(self, ids: np.ndarray, positions: np.ndarray, seen: int) -> np.ndarray:
        """Logits at some positions.  # (1, T), (P,) -> (1, P, V)"""
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones((1, seen + ids.shape[1]), dtype=np.int64),
            "logits_to_keep": positions,
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        return self.request.infer(inputs)["logits"].astype(np.float32)


class OpenVINO(Engine):
    """Runs OpenVINO's own format.

    By default the library chooses what it computes in: bfloat16 where the processor has it, and
    products of 8 bits where weights have 8 or 4. A type that is asked for is kept to.
    """

    package, extra, weights = "openvino", "openvino", WEIGHTS

    def load(
        self, folder: Path, *, threads: int | None = None, dtype: torch.dtype | None = None
    ) -> OpenVINOModel:
        """See `Engine.load`; what is asked for in float64 is computed in float32."""
        self.check()
        import openvino

        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        if dtype is not None:
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
            names = {value: name for name, value in TYPES.items()}
            options["INFERENCE_PRECISION_HINT"] = names.get(dtype, "f32")
        try:
            compiled = openvino.Core().compile_model(folder / WEIGHTS, "CPU", options)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot load {folder}: {one_line(error)}") from error
        return OpenVINOModel(compiled)

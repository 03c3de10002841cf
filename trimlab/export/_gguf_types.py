"""GGUF files with matrices of other types.

Source: the types of tensors in Q4_K_M, https://github.com/ggml-org/llama.cpp (src/llama-quant.cpp).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    LlamaFileType,
)
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize

from trimlab.engines import llama_cpp

Types = Callable[[Sequence[str]], dict[str, GGMLQuantizationType]]

Q4_K, Q6_K = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K
# where a row is no multiple of 256 numbers
_SMALLER_BLOCKS = {Q4_K: GGMLQuantizationType.Q5_0, Q6_K: GGMLQuantizationType.Q8_0}


def _one(kind: GGMLQuantizationType) -> Types:
    return lambda names: dict.fromkeys(names, kind)


def _q4_k_m(names: Sequence[str]) -> dict[str, GGMLQuantizationType]:
    """Four bits, and six for the output and for half of the values and of the MLPs' ends."""
    kinds = dict.fromkeys(names, Q4_K)
    kinds["output.weight" if "output.weight" in kinds else "token_embd.weight"] = Q6_K
    for part in ("attn_v.weight", "ffn_down.weight"):
        found = [name for name in names if name.endswith(part)]
        n = len(found)
        for i, name in enumerate(found):
            if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2:
                kinds[name] = Q6_K
    return kinds


_TYPES: dict[str, tuple[Types, LlamaFileType]] = {
    "float32": (_one(GGMLQuantizationType.F32), LlamaFileType.ALL_F32),
    "float16": (_one(GGMLQuantizationType.F16), LlamaFileType.MOSTLY_F16),
    "bfloat16": (_one(GGMLQuantizationType.BF16), LlamaFileType.MOSTLY_BF16),
    "q8_0": (_one(GGMLQuantizationType.Q8_0), LlamaFileType.MOSTLY_Q8_0),
    "q4_k_m": (_q4_k_m, LlamaFileType.MOSTLY_Q4_K_M),
}


def convert(source: Path, target: Path, dtype: str) -> None:
    """Copies a GGUF file with matrices of another type; vectors stay as they are.

    Args:
        source: A file with floating-point weights.
        target: The new file.
        dtype: `float32`, `float16`, `bfloat16`, `q8_0` or `q4_k_m`.
    """
    types, file_type = _TYPES[dtype]
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kinds = field.types
        inner = kinds[-1] if kinds[0] == GGUFValueType.ARRAY else None
        value = int(file_type) if name == "general.file_type" else field.contents()
        writer.add_key_value(name, value, kinds[0], sub_type=inner)
    kind_of = types([tensor.name for tensor in reader.tensors if len(tensor.shape) > 1])
    for tensor in reader.tensors:
        if tensor.name not in kind_of:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        weights = dequantize(tensor.data, tensor.tensor_type)
        kind = _fitting(kind_of[tensor.name], weights.shape[-1])
        writer.add_tensor(tensor.name, _rounded(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _fitting(kind: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The type, or one whose blocks fit into a row."""
    for smaller in (_SMALLER_BLOCKS.get(kind, kind), GGMLQuantizationType.F16):
        if columns % GGML_QUANT_SIZES[kind][0]:
            kind = smaller
    return kind


def _rounded(weights: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Weights in a type, by gguf-py where it can round to it."""
    try:
        return quantize(weights, kind)
    except NotImplementedError:
        rows = np.ascontiguousarray(weights, dtype=np.float32)
        _, size = quant_shape_to_byte_shape(rows.shape, kind)
        return llama_cpp.quantize(rows, int(kind), size)

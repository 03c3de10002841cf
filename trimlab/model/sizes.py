"""Bytes of a model's tensors, in memory or in a written folder."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from trimlab.model.family import family_of
from trimlab.model.sublayers import SublayerStack

# types of tensors in safetensors files
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
ITEM_BYTES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1}
ITEM_BYTES |= {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}


@dataclass(frozen=True)
class StoredSizes:
    """Bytes of a model's tensors, with 16 bits for each weight that is not quantised.

    Attributes:
        layers: Bytes of the blocks.
        model: Bytes of all tensors, embeddings included.
        zeros: Share of the blocks' matrix entries that are zero, in [0, 1]. They save memory and
            time only on hardware that skips them.
        dead: Bytes of the blocks that belong to dead sublayers, part of `layers`.
    """

    layers: float
    model: float
    zeros: float = 0.0
    dead: float = 0.0


def stored_sizes(
    folder: Path,
    dead: Sequence[str] = (),
    *,
    matrix_bytes: Callable[[int, int], float] | None = None,
) -> StoredSizes:
    """Sizes of a written model.

    Floating-point tensors (scales too) count two bytes an entry in whatever type they are saved:
    papers compare weights of four bits with weights of sixteen. Packed tensors count as they are.

    Args:
        folder: A Hugging Face folder with `*.safetensors`.
        dead: Beginnings of the names of dead sublayers' tensors, see `dead_sublayers`.
        matrix_bytes: Bytes of a matrix of the blocks from its rows and columns, where the folder
            holds unpacked what a method packs.

    Raises:
        InputError: The model type is not supported.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    blocks = f"{family_of(config).blocks}."
    layers = whole = gone = 0.0
    matrices: list[tuple[int, int]] = []  # zeros and entries
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_slice(name)
                shape, kind = tensor.get_shape(), tensor.get_dtype()
                size = math.prod(shape) * (2 if kind in FLOATS else ITEM_BYTES[kind])
                is_matrix = name.startswith(blocks) and kind in FLOATS and len(shape) == 2
                if is_matrix and matrix_bytes is not None:
                    size = matrix_bytes(*shape)
                whole += size
                if name.startswith(blocks):
                    layers += size
                    gone += size if name.startswith(tuple(dead)) else 0
                if is_matrix:
                    matrices.append(_zeros(file.get_tensor(name)))
    return StoredSizes(layers, whole, _share(matrices), gone)


def dead_sublayers(folder: Path) -> list[str]:
    """Sublayers of a written model that only fill a gap (tier T2): all of their weights are zero.

    Args:
        folder: A Hugging Face folder with `*.safetensors`, not quantised.

    Returns:
        Beginnings of the names of their tensors.
    """
    family = family_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    pattern = re.compile(rf"({re.escape(family.blocks)}\.\d+\.)(\w+)\.")
    alive: dict[tuple[str, ...], bool] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if found := pattern.match(name):
                    block, module = found.groups()
                    layouts = (family.attention.modules, family.mlp.modules)
                    modules = next((names for names in layouts if module in names), ())
                    sublayer = tuple(f"{block}{other}." for other in modules)
                    alive.setdefault(sublayer, False)
                    alive[sublayer] |= bool(file.get_tensor(name).any())
    return [name for sublayer, lives in alive.items() if not lives for name in sublayer]


def stored_dtype(files: Sequence[Path]) -> torch.dtype:
    """The floating-point type of most weights in some `*.safetensors`.

    Args:
        files: The files; only their headers are read.

    Returns:
        `float32`, `bfloat16` or `float16`; `float32` for other types.
    """
    entries: Counter[str] = Counter()
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_slice(name)
                entries[tensor.get_dtype()] += math.prod(tensor.get_shape())
    most = max(entries, key=entries.__getitem__, default="F32")
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(most, torch.float32)


def dense_sizes(stack: SublayerStack) -> StoredSizes:
    """Sizes of a model before any drop, with two bytes a weight; zeros are not counted."""
    scale = 2 / stack.model.dtype.itemsize
    return StoredSizes(scale * stack.bytes_of(*stack.original), scale * stack.model_bytes)


def zeros_of(stack: SublayerStack) -> float:
    """Share of the blocks' matrix entries that are zero, see `StoredSizes`."""
    return _share([_zeros(p) for s in stack for p in stack.parameters(s) if p.dim() == 2])


def _zeros(matrix: Tensor) -> tuple[int, int]:
    return int((matrix == 0).sum()), matrix.numel()


def _share(matrices: Sequence[tuple[int, int]]) -> float:
    return sum(zeros for zeros, _ in matrices) / max(1, sum(n for _, n in matrices))

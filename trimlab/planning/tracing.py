"""Counting what PyTorch's operations hold in memory, compute and move."""

import math
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

OpKey = tuple[Any, ...]  # name of a product and the shapes of its operands


class Op(NamedTuple):
    """One operation.

    Attributes:
        key: Its name and, of a product or an attention, the shapes of its operands.
        flops: Its arithmetic; 0 for one that only moves data.
        bytes: What it reads and writes.
    """

    key: OpKey
    flops: int
    bytes: int


class Tracer(TorchDispatchMode):
    """Follows the live memory of the tensors that are made, and counts operations.

    Attributes:
        live: Bytes of the tensors made in the context that still exist.
        peak: Most of them at a time, since `mark`.
        ops: How often each operation ran, since `mark`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.ops: Counter[Op] = Counter()
        self._storages: set[int] = set()

    def mark(self) -> None:
        """Starts a new peak and a new count."""
        self.peak, self.ops = self.live, Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [t for value in (*args, *kwargs.values()) for t in _tensors(value)]
        for tensor in read:  # weights and inputs, made before: nothing that is counted
            self._add(tensor, counted=False)
        out = func(*args, **kwargs)
        outputs = _tensors(out)
        made = [tensor for tensor in outputs if self._add(tensor)]
        if made or func._schema.is_mutable:  # others are views
            self.ops[_op(func, args, kwargs, out, [*read, *(made or outputs)], read)] += 1
        return out

    def _add(self, tensor: Tensor, counted: bool = True) -> bool:
        """Follows the memory of a tensor; whether it is new."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counted else 0
        if key in self._storages:
            return False
        self._storages.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)
        return True

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size


def _op(
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    out: Any,
    moved: list[Tensor],
    read: list[Tensor],
) -> Op:
    name, flops, shapes = func.overloadpacket.__name__, 0, tuple(tuple(t.shape) for t in read)
    if "scaled_dot_product" in name:
        backward = "backward" in name
        query, key = read[1 if backward else 0], read[2 if backward else 1]
        flops = 4 * query.numel() * key.shape[-2] * (2.5 if backward else 1)
    elif func.overloadpacket in flop_registry:
        flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
    return Op((name, *shapes) if flops else (name,), int(flops), sum(map(_size, moved)))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _size(tensor: Tensor) -> int:
    """Bytes that are moved for a tensor; an expanded one is read once."""
    if any(stride == 0 for stride in tensor.stride()):
        return tensor.element_size() * math.prod(
            n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride
        )
    return tensor.numel() * tensor.element_size()

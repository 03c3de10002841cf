"""A stand-in for a GPU that computes on the CPU and notes where the host waits for the device.

Kernels of a GPU are queued, and the host runs ahead of them. Reading a value, an operation whose
output's shape depends on values (`nonzero`, `unique`, a Boolean mask as an index), and a copy that
is not asynchronous make the host wait until the queue is empty. Tensors of the stand-in say that
they are on `cuda:0`, so that code takes its path for GPUs; each holds a tensor on the CPU, on which
operations run.

    with fake_cuda() as waits:
        model.to("cuda")
        waits.clear()
        ...
        assert waits == []

`torch.cuda.set_sync_debug_mode` is the same check on a real GPU.
"""

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
MEMORY = 80 * 2**30  # bytes of the stand-in
# operations that read values to find the shape of their output
READING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "repeat_interleave"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "equal"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# operations that take tensors of the host beside those of the device
MIXING = {"copy_", "_has_compatible_shallow_copy_type", "set_data"}

_waits: list[str] = []


def _wait(what: str) -> None:
    """Notes a wait, with the last lines of this project or of Transformers that led to it."""
    frames = traceback.extract_stack()[:-2]
    places = [
        f"{frame.filename.rsplit('/', 2)[-2]}/{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        for frame in frames
        if any(part in frame.filename for part in ("/trimlab/", "/transformers/", "/baselines/"))
    ]
    _waits.append(" ".join([what, *places[-3:]]))


class OnCard(torch.Tensor):
    """A tensor of the stand-in.

    Args:
        held: The tensor on the CPU.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnCard":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cpu",  # for C++, which has no CUDA here
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCard({self.held})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        device, dtype, non_blocking, _ = _target(*args, **kwargs)
        if device is not None and device.type == "cpu":
            if not non_blocking:
                _wait("to('cpu')")
            return self.held.clone().to(dtype or self.dtype)
        return self if dtype is None else super().to(dtype)

    def cpu(self, *_args: Any, **_kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        _wait("cpu()")
        return self.held.clone()

    def new_tensor(self, data: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        _wait("new_tensor()")
        return OnCard(self.held.new_tensor(data, **kwargs))

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Card():
            return func(*args, **(kwargs or {}))


def _target(*args: Any, copy: bool = False, **kwargs: Any) -> tuple[Any, Any, bool, Any]:
    """Device, type, whether not blocking, and memory format that `Tensor.to` was asked for."""
    if args and isinstance(args[0], OnCard):
        args = (CUDA, args[0].dtype, *args[1:])
    return torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]


def _reads(name: str) -> Any:
    def method(self: OnCard, *args: Any) -> Any:
        _wait(f"{name}()")
        return getattr(self.held.detach(), name)(*args)

    return method


for _name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__"):
    setattr(OnCard, _name, _reads(_name))


class _Card(TorchDispatchMode):
    """Runs operations on the tensors that the stand-in's tensors hold."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        to_card = device is not None and torch.device(device).type == "cuda"
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_card = [x for x in tensors if isinstance(x, OnCard)]
        if not on_card and not to_card:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        _check(name, args, kwargs, tensors)
        if to_card:
            kwargs = kwargs | {"device": torch.device("cpu")}
        args, kwargs = tree_map_only(OnCard, lambda x: x.held, (args, kwargs))
        found = func(*args, **kwargs)
        same = {id(x.held): x for x in on_card}  # what an operation in place returns
        return tree_map_only(
            torch.Tensor, lambda x: same[id(x)] if id(x) in same else OnCard(x), found
        )


def _check(name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> None:
    """Notes an operation for which the host waits, and refuses tensors on two devices."""
    on_card = [x for x in tensors if isinstance(x, OnCard)]
    on_host = [x for x in tensors if not isinstance(x, OnCard) and x.dim() > 0]
    if name in READING and on_card:
        _wait(name)
    if name in INDEXING and on_card:
        indices = [x for x in args[1] if x is not None]
        if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
            _wait(f"{name} with a mask")
        on_host = [x for x in on_host if not any(x is index for index in indices)]
        if any(not isinstance(x, OnCard) for x in indices):
            _wait(f"{name} with indices on the host")
    if name == "copy_" and on_host and not (len(args) > 2 and args[2]):
        _wait("copy_ from the host")
    if on_card and on_host and name not in MIXING:
        raise RuntimeError(f"{name}: tensors on cuda:0 and on the CPU")


_host_to = torch.Tensor.to


def _to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to` of tensors on the host."""
    device, dtype, non_blocking, _ = _target(*args, **kwargs)
    if device is None or device.type != "cuda":
        return _host_to(self, *args, **kwargs)
    if not non_blocking:
        _wait("copy from the host")
    return OnCard(_host_to(self.detach().clone(), dtype or self.dtype))


_host_tensor = torch.tensor


def _tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """`torch.tensor`, which fills a tensor of the host and copies it."""
    made = _host_tensor(data, **kwargs)
    if device is None or torch.device(device).type != "cuda":
        return made
    if made.numel():
        _wait("torch.tensor on the device")
    return OnCard(made)


@contextmanager
def fake_cuda() -> Iterator[list[str]]:
    """A `with` block in which the device `cuda` is there; for one test at a time.

    Yields:
        The waits so far: the operation, and the lines of code that led to it.
    """
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    about = SimpleNamespace(total_memory=MEMORY, name="stand-in", major=9, minor=0)
    fakes = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda *_: _wait("synchronize"),
        "get_device_properties": lambda *_: about,
        "get_device_name": lambda *_: about.name,
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "is_bf16_supported": lambda *_, **__: True,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "empty_cache": lambda: None,
    }
    with ExitStack() as patches:
        for name, fake in fakes.items():
            patches.enter_context(patch.object(torch.cuda, name, fake))
        patches.enter_context(patch.object(torch.Tensor, "pin_memory", lambda self, *_: self))
        patches.enter_context(patch.object(torch.Tensor, "to", _to))
        patches.enter_context(patch.object(torch, "tensor", _tensor))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with _Card():
                _waits.clear()
                yield _waits
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)

"""Buffers keep their type where weights are converted.

`module.to(bfloat16)` also rounds buffers, such as the frequencies of rotary positions: by up to
0.4 %, which at position 1,000 is radians. Models that are loaded in bfloat16 have exact ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def exact_buffers(module: nn.Module) -> Iterator[None]:
    """Keeps floating-point buffers as they are while the module is converted or moved.

    Args:
        module: Its buffers follow it to another device, in their own type.
    """
    before = {
        name: buffer
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if buffer.is_floating_point()
    }
    yield
    for name, buffer in before.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        owner._buffers[attribute] = buffer.to(owner.get_buffer(attribute).device)

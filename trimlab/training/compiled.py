"""Blocks compiled with `torch.compile`, in training steps only."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from trimlab.errors import InputError

# variants of a block: with and without attention and MLP, each trainable or frozen, with or
# without a gradient of its input, in several types of attention
VARIANTS = 64
BACKEND = "inductor"


class CompiledBlocks:
    """Replaces the forward passes of blocks by compiled ones for the duration of a `with` block.

    All blocks share the compiled code of their variant. A block that lost a sublayer is compiled
    again where no other was of that shape. Scans, bypasses and everything else that runs outside
    of the `with` block uses the plain code.

    Args:
        blocks: The blocks of a model.
    """

    def __init__(self, blocks: Sequence[nn.Module]):
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = [
            (block, torch.compile(block.forward, backend=BACKEND, dynamic=True)) for block in blocks
        ]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Uses the compiled code, except in blocks with hooks inside, which it would leave out."""
        with ExitStack() as restored:
            restored.enter_context(torch._dynamo.config.patch(recompile_limit=VARIANTS))
            for block, forward in self._forwards:
                if not _hooked(block):
                    vars(block)["forward"] = forward
                    restored.callback(vars(block).pop, "forward")
            yield


def check_compiler(device: torch.device) -> None:
    """Refuses a machine on which nothing can be compiled.

    Raises:
        InputError: There is no C++ compiler or, for a GPU, no Triton.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InputError("model.compile needs Triton on a GPU: pip install triton, or leave it out")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise InputError(
            "model.compile needs a C++ compiler (g++, or the one that CXX names): install one, or "
            "leave model.compile out"
        )


def _hooked(block: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())

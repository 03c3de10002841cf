"""Packing: the remaining sublayers as fewer ordinary blocks.

A kept attention directly followed by a kept MLP, even from different original blocks, is one
ordinary block. A sublayer without such a partner gets a dead one whose weights and biases are
all zero, so that it adds zero to the residual stream.
"""

import copy
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer, SublayerStack

Tier = Literal["T1", "T2"]


class PackedBlock(NamedTuple):
    """One block of the packed model; None is a dead sublayer."""

    attention: Sublayer | None
    mlp: Sublayer | None


def pack(stack: SublayerStack) -> list[PackedBlock]:
    """Pairs the remaining sublayers up, in the order of execution.

    In a parallel block attention and MLP read the same input, so there only the two of one
    original block make a pair.

    Raises:
        InputError: A dropped sublayer is not the residual identity (an ablation), so that no
            ordinary model computes the same.
    """
    if stack.bypass_rule != "residual":
        raise InputError(
            f"a model with trim.bypass {stack.bypass_rule} can't be exported: no ordinary model "
            "computes it; trim with trim.bypass residual"
        )
    blocks: list[PackedBlock] = []
    waiting: Sublayer | None = None  # an attention whose MLP may come next
    for sublayer in stack:
        if sublayer.kind == "attention":
            if waiting is not None:
                blocks.append(PackedBlock(waiting, None))
            waiting = sublayer
        elif waiting is not None and (not stack.parallel or waiting.block == sublayer.block):
            blocks.append(PackedBlock(waiting, sublayer))
            waiting = None
        else:
            if waiting is not None:
                blocks.append(PackedBlock(waiting, None))
                waiting = None
            blocks.append(PackedBlock(None, sublayer))
    if waiting is not None:
        blocks.append(PackedBlock(waiting, None))
    return blocks


def tier_of(blocks: list[PackedBlock]) -> Tier:
    """T1 where nothing is left over, T2 where dead sublayers fill the gaps."""
    return "T1" if all(None not in block for block in blocks) else "T2"


def packed_config(stack: SublayerStack, blocks: list[PackedBlock]) -> PretrainedConfig:
    """The model's config with as many blocks as are left, each with its attention's type."""
    config = copy.deepcopy(stack.model.config)
    config.num_hidden_layers = len(blocks)
    types = getattr(config, "layer_types", None)
    if types is not None:
        sources = [block.attention or block.mlp for block in blocks]
        config.layer_types = [types[source.block] for source in sources if source is not None]
    if not config.use_cache:  # the stack turned it off when the last attention was dropped
        config.use_cache = True
    return config


def packed_state(stack: SublayerStack, blocks: list[PackedBlock]) -> dict[str, Tensor]:
    """The packed model's weights under the names of its own blocks.

    Args:
        stack: The trimmed model.
        blocks: What `pack` made of it.

    Returns:
        Name to tensor; tensors of kept sublayers are the model's own, not copies.
    """
    config = packed_config(stack, blocks)
    with torch.device("meta"):  # names and shapes only
        template = type(stack.model)(config)  # type: ignore[arg-type]
    source = {}
    prefix = stack.family.blocks
    for index, block in enumerate(blocks):
        for sublayer in block:
            if sublayer is not None:
                for name in stack.layout(sublayer).modules:
                    source[f"{prefix}.{index}.{name}."] = f"{prefix}.{sublayer.block}.{name}."
    weights = stack.model.state_dict()
    tied = set(template.all_tied_weights_keys)  # the stock class ties them again when it loads
    state = {}
    for name, shape in ((n, t.shape) for n, t in template.state_dict().items() if n not in tied):
        if not name.startswith(f"{prefix}."):
            state[name] = weights[name]
            continue
        new = next((p for p in source if name.startswith(p)), None)
        if new is None:  # part of a dead sublayer
            state[name] = torch.zeros(shape, dtype=stack.model.dtype)
        else:
            state[name] = weights[source[new] + name.removeprefix(new)]
    return state

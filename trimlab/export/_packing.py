"""Packing: the remaining sublayers as fewer ordinary blocks, for all formats.

A kept attention directly followed by a kept MLP, even from different original blocks, is one
ordinary block. A sublayer without such a partner gets a dead one, whose weights and biases are
all zero, so that it adds zero to the residual stream.
"""

import copy
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig

from trimlab.model.sublayers import Sublayer, SublayerStack

Tier = Literal["T1", "T2", "T3"]


class PackedBlock(NamedTuple):
    """One block of the packed model; None stands for a dead sublayer."""

    attention: Sublayer | None
    mlp: Sublayer | None


def pack(stack: SublayerStack) -> list[PackedBlock]:
    """Pairs the remaining sublayers, in the order of execution.

    The attention and the MLP of a parallel block read the same input: there, only sublayers of one
    original block make a pair.
    """
    blocks: list[PackedBlock] = []
    waiting: Sublayer | None = None  # an attention; its MLP may come next
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
    """T1 if every sublayer has a partner, T2 if dead sublayers fill gaps."""
    return "T1" if all(None not in block for block in blocks) else "T2"


def packable_blocks(stack: SublayerStack, ratio: float) -> int:
    """Number of blocks that `trim.packable` leaves at a layer-memory ratio, with no dead sublayer.

    Args:
        stack: A model, trimmed or not.
        ratio: The layer-memory ratio, in (0, 1].

    Returns:
        The most blocks of mean size that are no more than the ratio; at least 1.
    """
    return max(1, int(ratio * len(stack.blocks) + 1e-9))


def packed_size(stack: SublayerStack, blocks: list[PackedBlock]) -> int:
    """Number of the packed model's weights, with those of dead sublayers."""
    with torch.device("meta"):
        return type(stack.model)(packed_config(stack, blocks)).num_parameters()  # type: ignore[arg-type]


def packed_config(stack: SublayerStack, blocks: list[PackedBlock]) -> PretrainedConfig:
    """The model's config with the number of packed blocks, and the attention type of each."""
    config = copy.deepcopy(stack.model.config)
    config.num_hidden_layers = len(blocks)
    types = getattr(config, "layer_types", None)
    if types is not None:
        sources = [block.attention or block.mlp for block in blocks]
        config.layer_types = [types[source.block] for source in sources if source is not None]
    return config


def packed_state(stack: SublayerStack, blocks: list[PackedBlock]) -> dict[str, Tensor]:
    """The packed model's weights under the names of its own blocks.

    Args:
        stack: The trimmed model.
        blocks: The packed blocks.

    Returns:
        Tensors by name. Those of kept sublayers are the model's own, not copies.
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
    tied = set(template.all_tied_weights_keys)  # tied again when the model is loaded
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


def drop_dead(stack: SublayerStack) -> None:
    """Drops the sublayers of a stock model that add nothing: those that packing filled with zeros.

    Args:
        stack: The model, as it was loaded from an export of tier T2.
    """
    dead = [s for s in stack if not any(bool(weight.any()) for weight in stack.parameters(s))]
    if len(dead) < len(stack):
        stack.drop(*dead)

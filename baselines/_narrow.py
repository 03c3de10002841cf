"""Models with fewer attention heads and narrower MLPs, the same in every block.

Dependent weights are removed together: a channel of an MLP is a row of `gate_proj` and `up_proj`
and a column of `down_proj`; a head is its rows of the projections and its columns of `o_proj`.
Query heads that share a key-value head form a group, which stays or goes as a whole.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer, SublayerStack


class Kept(NamedTuple):
    """What stays of a block.

    Attributes:
        groups: Indices of the groups of heads.  # (G,)
        channels: Indices of the channels of the MLP.  # (I,)
    """

    groups: Tensor
    channels: Tensor


def check_ratio(ratio: float) -> None:
    """Refuses a share of the layer memory that is none, or all of it.

    Raises:
        InputError: It is not between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise InputError(f"ratio must be between 0 and 1, not {ratio}")


def check_blocks(stack: SublayerStack, title: str) -> None:
    """Refuses a model without the linear layers that are narrowed.

    Args:
        stack: The model.
        title: Name of the method, for the message.

    Raises:
        InputError: A block has other layers.
    """
    wanted = {
        "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
    }
    for block in stack.blocks:
        for part, names in wanted.items():
            module = getattr(block, part, None)
            if not all(isinstance(getattr(module, name, None), nn.Linear) for name in names):
                raise InputError(
                    f"{title} here knows blocks with {', '.join(names)}, and "
                    f"{stack.model.config.model_type} has others"
                )


def group_count(config: PreTrainedConfig) -> int:
    """Number of prunable groups of heads: key-value heads, or query heads if there is only one."""
    several = config.num_key_value_heads > 1
    return config.num_key_value_heads if several else config.num_attention_heads


def kept_sizes(stack: SublayerStack, ratio: float) -> tuple[int, int]:
    """Groups of heads and channels of the MLP that every block keeps.

    Args:
        stack: The model.
        ratio: Layer memory to keep, between 0 and 1.

    Raises:
        InputError: Nothing is left for the MLP.
    """
    config, groups = stack.model.config, group_count(stack.model.config)
    together = config.num_attention_heads // groups
    # configs require that the number of heads divides the hidden size; the MLP compensates
    allowed = [g for g in range(1, groups + 1) if config.hidden_size % (g * together) == 0]
    heads = min(allowed, key=lambda g: abs(g - ratio * groups))
    several = config.num_key_value_heads > 1
    # of queries and outputs, and of keys and values
    rows = 2 * (together + several) * _head_dim(config)
    # heads and channels consist of rows and columns of the hidden size: the unit from here on
    row = config.hidden_size * stack.model.dtype.itemsize
    attention, mlp = (stack.bytes_of(Sublayer(0, kind)) / row for kind in ("attention", "mlp"))
    fixed = attention - (groups - heads) * rows + mlp - 3 * config.intermediate_size
    left = ratio * (attention + mlp) - fixed
    channels = min(int(left / 3), config.intermediate_size)
    if channels < 1:
        raise InputError(f"ratio {ratio} leaves no room for an MLP beside the attention")
    return heads, channels


def best(importance: Tensor, keep: int) -> Tensor:
    """Indices of the largest entries, ascending.  # (keep,)"""
    return importance.argsort(descending=True, stable=True)[:keep].sort().values


def query_rows(config: PreTrainedConfig, groups: Tensor) -> Tensor:
    """Rows of `q_proj` and columns of `o_proj` that belong to groups of heads.

    Args:
        config: The model's.
        groups: Indices of the groups.  # (G,)

    Returns:
        The indices.  # (G * heads of a group * head size,)
    """
    return _rows(groups, config.num_attention_heads // group_count(config) * _head_dim(config))


@torch.no_grad()
def save_narrow(stack: SublayerStack, kept: Sequence[Kept], folder: Path) -> None:
    """Writes a model without what is not kept, as a model of the same class.

    Args:
        stack: The model; its layers are narrowed in place.
        kept: What stays of each block, the same number in all of them.
        folder: The folder to write.
    """
    wide = stack.model
    blocks: list[Any] = stack.blocks
    for block, (groups, channels) in zip(blocks, kept, strict=True):
        _narrow(block.mlp, {"gate_proj": channels, "up_proj": channels}, {"down_proj": channels})
        queries = query_rows(wide.config, groups)
        rows = {"q_proj": queries}
        if wide.config.num_key_value_heads > 1:
            keys = _rows(groups, _head_dim(wide.config))
            rows |= {"k_proj": keys, "v_proj": keys}
        _narrow(block.self_attn, rows, {"o_proj": queries})
    sizes = len(kept[0].groups), len(kept[0].channels)
    narrower = AutoModelForCausalLM.from_config(_config(wide.config, *sizes), dtype=wide.dtype)
    narrower.load_state_dict(wide.state_dict())  # strict: every shape is the config's
    narrower.save_pretrained(folder)


def _narrow(module: Any, rows: dict[str, Tensor], columns: dict[str, Tensor]) -> None:
    """Keeps some rows and columns of a module's linear layers."""
    for name, kept in rows.items():
        layer = getattr(module, name)
        layer.weight = nn.Parameter(layer.weight[kept])
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[kept])
    for name, kept in columns.items():
        layer = getattr(module, name)
        layer.weight = nn.Parameter(layer.weight[:, kept])


def _rows(groups: Tensor, size: int) -> Tensor:
    """Indices of the rows of some groups of `size` rows each.  # (G * size,)"""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _config(config: PreTrainedConfig, groups: int, channels: int) -> PreTrainedConfig:
    narrower = type(config).from_dict(config.to_dict())
    each = config.num_attention_heads // group_count(config)
    narrower.head_dim = _head_dim(config)  # else it follows from the number of heads
    narrower.num_attention_heads = groups * each
    if config.num_key_value_heads > 1:
        narrower.num_key_value_heads = groups
    narrower.intermediate_size = channels
    return narrower

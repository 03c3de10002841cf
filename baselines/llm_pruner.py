"""LLM-Pruner (Ma et al. 2023, arXiv 2305.11627): attention heads and MLP channels, by gradient.

Dependent weights are removed together: a channel of an MLP is a row of `gate_proj` and `up_proj`
and a column of `down_proj`; a head is its rows of the projections and its columns of `o_proj`.
Every block loses the same number, so the result is an ordinary model with a narrower MLP and fewer
heads (the paper spares the first and last blocks, and its models need code of their own).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.errors import InputError
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack


class LLMPruner(Baseline):
    """Prunes by the first-order Taylor term of the loss; fine-tuning comes after.

    Args:
        ratio: Layer memory to keep, between 0 and 1.
        samples: Number of texts for the gradient of the loss (ten in the paper).
    """

    title = "LLM-Pruner"
    before_training = True

    def __init__(self, ratio: float = 0.5, samples: int = 10):
        if not 0 < ratio < 1:
            raise InputError(f"ratio must be between 0 and 1, not {ratio}")
        if samples < 1:
            raise InputError(f"samples must be at least 1, not {samples}")
        self.ratio, self.samples = ratio, samples

    def check(self, stack: SublayerStack) -> None:
        """Refuses a model without the linear layers that are pruned."""
        for block in stack.blocks:
            _check_block(block, stack.model.config.model_type)

    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the narrower model."""
        wide, _ = load_model(model, **placement._asdict())
        stack = SublayerStack(wide)
        self.check(stack)
        for text in texts[: self.samples]:
            ids = torch.tensor([list(text)], device=wide.device)
            wide(ids, labels=ids, use_cache=False).loss.backward()
        heads, channels = self._kept(stack)
        groups, coupled = _groups(wide.config), wide.config.num_key_value_heads > 1
        with torch.no_grad():
            for block in stack.blocks:
                keep = best(channel_importance(block.mlp), channels)
                narrow(block.mlp, {"gate_proj": keep, "up_proj": keep}, {"down_proj": keep})
                importance = head_importance(block.self_attn, groups, coupled)
                rows = _rows(wide.config, best(importance, heads))
                narrow(block.self_attn, rows, {"o_proj": rows["q_proj"]})
        narrower = AutoModelForCausalLM.from_config(
            _config(wide.config, heads, channels), dtype=wide.dtype
        )
        narrower.load_state_dict(wide.state_dict())  # strict: every shape is the config's
        narrower.save_pretrained(folder)

    def _kept(self, stack: SublayerStack) -> tuple[int, int]:
        """Groups of heads and channels of the MLP that every block keeps."""
        config, groups = stack.model.config, _groups(stack.model.config)
        together = config.num_attention_heads // groups
        # configs require that the number of heads divides the hidden size; the MLP compensates
        allowed = [g for g in range(1, groups + 1) if config.hidden_size % (g * together) == 0]
        heads = min(allowed, key=lambda g: abs(g - self.ratio * groups))
        several = config.num_key_value_heads > 1
        # of queries and outputs, and of keys and values
        rows = 2 * (together + several) * _head_dim(config)
        # heads and channels consist of rows and columns of the hidden size: the unit from here on
        row = config.hidden_size * stack.model.dtype.itemsize
        attention, mlp = (stack.bytes_of(Sublayer(0, kind)) / row for kind in ("attention", "mlp"))
        fixed = attention - (groups - heads) * rows + mlp - 3 * config.intermediate_size
        left = self.ratio * (attention + mlp) - fixed
        channels = min(int(left / 3), config.intermediate_size)
        if channels < 1:
            raise InputError(f"ratio {self.ratio} leaves no room for an MLP beside the attention")
        return heads, channels


def channel_importance(mlp: Any) -> Tensor:
    """Importance of each channel of a gated MLP.  # (I,)

    The sum of |w dL/dw| over its weights (Equation 5 without the second-order term): the change of
    the loss without the channel, to first order.
    """
    return taylor(mlp.gate_proj).sum(1) + taylor(mlp.up_proj).sum(1) + taylor(mlp.down_proj).sum(0)


def head_importance(attention: Any, groups: int, coupled: bool) -> Tensor:
    """Importance of each group of heads, as in `channel_importance`.  # (G,)

    Args:
        attention: The attention.
        groups: Number of groups, G.
        coupled: Whether each group has a key-value head of its own.
    """
    found = taylor(attention.q_proj).sum(1).view(groups, -1).sum(1)
    found += taylor(attention.o_proj).sum(0).view(groups, -1).sum(1)
    for shared in (attention.k_proj, attention.v_proj) if coupled else ():
        found += taylor(shared).sum(1).view(groups, -1).sum(1)
    return found


def taylor(layer: nn.Linear) -> Tensor:
    """|w dL/dw| of every weight.  # (R, C)"""
    assert layer.weight.grad is not None
    weight = layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))
    return (weight * layer.weight.grad).abs()


def best(importance: Tensor, keep: int) -> Tensor:
    """Indices of the largest entries, ascending.  # (keep,)"""
    return importance.argsort(descending=True, stable=True)[:keep].sort().values


def narrow(module: Any, rows: dict[str, Tensor], columns: dict[str, Tensor]) -> None:
    """Keeps some rows and columns of a module's linear layers."""
    for name, kept in rows.items():
        layer = getattr(module, name)
        layer.weight = nn.Parameter(layer.weight[kept])
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[kept])
    for name, kept in columns.items():
        layer = getattr(module, name)
        layer.weight = nn.Parameter(layer.weight[:, kept])


def _groups(config: PreTrainedConfig) -> int:
    """Number of prunable groups of heads: key-value heads, or query heads if there is only one."""
    several = config.num_key_value_heads > 1
    return config.num_key_value_heads if several else config.num_attention_heads


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rows(config: PreTrainedConfig, kept: Tensor) -> dict[str, Tensor]:
    """Indices of the rows of each projection that belong to the kept groups of heads.  # (rows,)"""

    def rows(heads_each: int) -> Tensor:
        size = heads_each * _head_dim(config)
        return (kept[:, None] * size + torch.arange(size, device=kept.device)).flatten()

    found = {"q_proj": rows(config.num_attention_heads // _groups(config))}
    if config.num_key_value_heads > 1:
        found |= {"k_proj": rows(1), "v_proj": rows(1)}
    return found


def _config(config: PreTrainedConfig, groups: int, channels: int) -> PreTrainedConfig:
    narrower = type(config).from_dict(config.to_dict())
    each = config.num_attention_heads // _groups(config)
    narrower.head_dim = _head_dim(config)  # else it follows from the number of heads
    narrower.num_attention_heads = groups * each
    if config.num_key_value_heads > 1:
        narrower.num_key_value_heads = groups
    narrower.intermediate_size = channels
    return narrower


def _check_block(block: Any, model_type: str) -> None:
    wanted = {
        "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
    }
    for part, names in wanted.items():
        module = getattr(block, part, None)
        if not all(isinstance(getattr(module, name, None), nn.Linear) for name in names):
            raise InputError(
                f"LLM-Pruner here knows blocks with {', '.join(names)}, and {model_type} has others"
            )

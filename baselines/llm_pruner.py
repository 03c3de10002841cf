"""LLM-Pruner (Ma et al. 2023, arXiv 2305.11627): attention heads and MLP channels, by gradient.

Every block loses the same number, so the result is an ordinary model with a narrower MLP and fewer
heads (the paper spares the first and last blocks, and its models need code of their own).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines._narrow import (
    Kept,
    best,
    check_blocks,
    check_ratio,
    group_count,
    kept_sizes,
    save_narrow,
)
from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.errors import InputError
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack


class LLMPruner(Baseline):
    """Prunes by the first-order Taylor term of the loss; fine-tuning comes after.

    Args:
        ratio: Layer memory to keep, between 0 and 1.
        samples: Number of texts for the gradient of the loss (ten in the paper).
    """

    title = "LLM-Pruner"
    before_training = True

    def __init__(self, ratio: float = 0.5, samples: int = 10):
        check_ratio(ratio)
        if samples < 1:
            raise InputError(f"samples must be at least 1, not {samples}")
        self.ratio, self.samples = ratio, samples

    def check(self, stack: SublayerStack) -> None:
        """Refuses a model without the linear layers that are pruned."""
        check_blocks(stack, self.title)

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
        heads, channels = kept_sizes(stack, self.ratio)
        groups, coupled = group_count(wide.config), wide.config.num_key_value_heads > 1
        blocks: list[Any] = stack.blocks
        kept = [
            Kept(
                best(head_importance(block.self_attn, groups, coupled), heads),
                best(channel_importance(block.mlp), channels),
            )
            for block in blocks
        ]
        save_narrow(stack, kept, folder)


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

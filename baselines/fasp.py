"""FASP (Hu et al. 2025, arXiv 2501.09412): columns of later layers, least squares on what is left.

A column of `down_proj` goes with a row of `up_proj` and `gate_proj`, a column of `o_proj` with a
row of `v_proj`; the columns that are left take over what the others did. No training follows.

The paper leaves queries and keys as they are and prunes the value rows one by one. Classes of
Transformers have one head size for queries, keys and values, so here whole groups of heads go, by
the sum over their columns of `o_proj`; nothing reads their queries and keys, which go with them.
Every block loses the same number: the result is a smaller model of the same class, of the same
shape as LLM-Pruner's. (The paper's text was not at hand in full: the ridge term is ours. It acts on
the change of the weights, so that a model without pruned columns stays as it is.)
"""

from pathlib import Path

import torch
from torch import Tensor

from baselines._blocks import each_block
from baselines._least_squares import damped
from baselines._narrow import (
    Kept,
    best,
    check_blocks,
    check_ratio,
    group_count,
    kept_sizes,
    query_rows,
    save_narrow,
)
from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack


class FASP(Baseline):
    """Prunes columns with small weights and inputs, and corrects the others.

    Args:
        ratio: Layer memory to keep, between 0 and 1.
        damp: Ridge term: addition to the diagonal of the Hessian, as a share of its mean.
    """

    title = "FASP"

    def __init__(self, ratio: float = 0.5, damp: float = 0.01):
        check_ratio(ratio)
        self.ratio, self.damp = ratio, damp

    def check(self, stack: SublayerStack) -> None:
        """Refuses a model without the linear layers that are pruned."""
        check_blocks(stack, self.title)

    @torch.no_grad()
    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the narrower model."""
        wide, _ = load_model(model, **placement._asdict())
        stack = SublayerStack(wide)
        self.check(stack)
        heads, channels = kept_sizes(stack, self.ratio)
        kept: list[Kept] = []
        for block, grams in each_block(stack, texts):
            out, down = block.self_attn.o_proj, block.mlp.down_proj
            by_group = importance(out.weight, grams[out]).view(group_count(wide.config), -1)
            groups = best(by_group.sum(1), heads)
            kept.append(Kept(groups, best(importance(down.weight, grams[down]), channels)))
            columns = {out: query_rows(wide.config, groups), down: kept[-1].channels}
            for layer, stay in columns.items():
                layer.weight.copy_(restore(layer.weight, grams[layer], stay, self.damp))
        save_narrow(stack, kept, folder)


def importance(weight: Tensor, gram: Tensor) -> Tensor:
    """Sum over a column of Wanda's score: weights times the norm of their input.

    Args:
        weight: The layer's weights.  # (R, C)
        gram: Inner products of its inputs, `X^T X`.  # (C, C)

    Returns:
        A score for each column.  # (C,)
    """
    return weight.to(gram.dtype).abs().sum(0) * gram.diagonal().sqrt()


def restore(weight: Tensor, gram: Tensor, kept: Tensor, damp: float) -> Tensor:
    """The weights of the kept columns that come closest to the layer's outputs, in closed form.

    Args:
        weight: The layer's weights.  # (R, C)
        gram: Inner products of its inputs, `X^T X`.  # (C, C)
        kept: Indices of the columns that stay.  # (K,)
        damp: Ridge term, as a share of the mean of the diagonal.

    Returns:
        The weights, zero in the other columns, in the type of the inner products.  # (R, C)
    """
    gone = weight.to(gram.dtype).index_fill(1, kept, 0)  # (R, C)
    factor = torch.linalg.cholesky(damped(gram[kept][:, kept], damp))
    change = torch.cholesky_solve(gram[kept] @ gone.T, factor).T  # (R, K)
    return (weight - gone).index_add(1, kept, change)

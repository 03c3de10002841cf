"""Candidates: the sublayers among which a drop step chooses."""

import itertools
from typing import Literal

from trimlab.model.sublayers import Sublayer, SublayerStack

Candidate = tuple[Sublayer, ...]  # sublayers that are dropped together
Granularity = Literal["sublayer", "pair", "block"]


def candidates(stack: SublayerStack, granularity: Granularity = "sublayer") -> list[Candidate]:
    """The candidates of the next drop, in the order of execution.

    Args:
        stack: The model.
        granularity: `"sublayer"`: each one alone. `"pair"`: an attention and the MLP after it, or
            an MLP and the attention after it, which keeps the alternation of the two kinds; in a
            model with parallel blocks, whole blocks. `"block"`: attention and MLP of a block.
    """
    remaining = list(stack)
    if granularity == "sublayer":
        return [(sublayer,) for sublayer in remaining]
    pairs = [
        (first, second)
        for first, second in itertools.pairwise(remaining)
        if first.kind != second.kind
    ]
    if granularity == "block" or stack.parallel:
        return [pair for pair in pairs if pair[0].block == pair[1].block]
    return pairs


def name_of(candidate: Candidate) -> str:
    """A candidate as text: `3.mlp`, or `3.mlp+4.attention`."""
    return "+".join(map(str, candidate))

"""Operations of a training step against PyTorch's own count, and by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trimlab.bench._flops import TextSizes, matmul_rate, training_flops
from trimlab.data.batching import collate
from trimlab.data.encoding import EncodedItem
from trimlab.evaluation.likelihoods import token_log_probs
from trimlab.model.sublayers import Sublayer, SublayerStack

LENGTH, ANSWER = 16, 3


def text() -> EncodedItem:
    """A text whose last tokens are the answer."""
    positions = tuple(range(LENGTH))
    return EncodedItem(
        tokens=tuple(range(3, 3 + LENGTH)),
        positions=positions,
        continuations=(0,) * LENGTH,
        logit_index=positions[-ANSWER:],
        targets=(20,) * ANSWER,
        choice_index=(0,) * ANSWER,
        gold=0,
    )


@pytest.mark.parametrize(
    ("trainable", "embeddings"),
    [
        (["0.attention", "2.mlp"], False),
        (["2.attention"], False),
        (["3.mlp"], False),
        ([f"{b}.{k}" for b in range(4) for k in ("attention", "mlp")], True),
    ],
)
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_as_many_operations_as_pytorch_counts(
    tiny_model: Callable[..., Any], family: str, trainable: list[str], embeddings: bool
) -> None:
    # eager: PyTorch counts the products of all pairs of tokens, masked or not
    stack = SublayerStack(tiny_model(family, torch.float32, attn_implementation="eager"))
    trained = [Sublayer.parse(name) for name in trainable]
    stack.freeze_all_but(trained, embeddings)
    batch = collate([text()])
    with FlopCounterMode(display=False) as counter:
        with stack.last_mlp_only_at(batch.scored_positions):
            hidden = stack.hidden(input_ids=batch.input_ids)
        token_log_probs(stack, hidden, batch).sum().backward()
    sizes = TextSizes(tokens=LENGTH, pairs=LENGTH**2, scored=ANSWER)
    assert training_flops(stack, trained, sizes, embeddings) == counter.get_total_flops()


def test_causal_attention_needs_half_of_the_pairs() -> None:
    assert TextSizes.of([text(), text()]) == TextSizes(32, 2 * (16 * 17 // 2), 6)


def test_the_rate_of_matrix_products_is_measured() -> None:
    assert matmul_rate(torch.device("cpu"), torch.float32, repeats=2) > 1e8

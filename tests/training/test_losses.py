"""Every loss file: gradients of the plain model, and sums over parts of a batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import TinyModel, TinyTokenizer
from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.evaluation.likelihoods import model_inputs
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names
from trimlab.training.losses import LOSSES, Loss, load_loss

ITEMS = [
    Item("the owl is in the bin:", (" yes", " no, never"), 1),
    Item("b", ("cat", "dog"), 1),
    Item("question: what is 2 - 1?\nanswer: ", ("1", "an owl", "the man"), 2),
    Item("where is the man?", (" on the bin", " in"), 0),
]


@pytest.fixture
def stack(tiny_model: TinyModel) -> SublayerStack:
    stack = SublayerStack(tiny_model("llama"))
    stack.drop(Sublayer(1, "attention"))
    return stack


@pytest.fixture
def batch(tiny_tokenizer: TinyTokenizer) -> Batch:
    return collate([encode(tiny_tokenizer(), item, 256, only_gold=True) for item in ITEMS])


@pytest.fixture(params=plugin_names(LOSSES))
def loss(request: pytest.FixtureRequest) -> Loss:
    return load_loss(request.param)


@pytest.fixture
def teacher(loss: Loss, tiny_model: TinyModel) -> SublayerStack | None:
    return SublayerStack(tiny_model("llama", seed=1)) if loss.needs_teacher else None


def hidden_states(stack: SublayerStack, batch: Batch) -> Tensor:
    """Last hidden states at all positions.  # (B, T, D)"""
    return stack.hidden(**model_inputs(batch, stack.model.config, stack.model.dtype))


def gradients(stack: SublayerStack, loss: Tensor) -> dict[str, Tensor]:
    named = dict(stack.model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_the_plain_model(
    loss: Loss, stack: SublayerStack, teacher: SublayerStack | None, batch: Batch
) -> None:
    """The last MLP may run at scored positions only, unless the loss reads all."""
    plain = loss(stack, hidden_states(stack, batch), batch, teacher)
    expected = gradients(stack, plain)
    assert plain.shape == () and plain.isfinite()
    assert any(bool(gradient.any()) for gradient in expected.values())
    if not loss.all_positions:
        with stack.last_mlp_only_at(batch.scored_positions):
            sparse = loss(stack, hidden_states(stack, batch), batch, teacher)
        assert_same(sparse, plain)
        assert_same(gradients(stack, sparse), expected)


@pytest.mark.parametrize("max_tokens", [1, 40])
def test_parts_of_a_batch_add_up(
    loss: Loss, stack: SublayerStack, teacher: SublayerStack | None, batch: Batch, max_tokens: int
) -> None:
    parts = batch.parts(max_tokens)
    assert len(parts) > 1
    whole = loss(stack, hidden_states(stack, batch), batch, teacher)
    summed = sum(loss(stack, hidden_states(stack, part), part, teacher) for part in parts)
    assert isinstance(summed, Tensor)
    assert_same(summed, whole)
    assert_same(gradients(stack, summed), gradients(stack, whole))
    assert sum(loss.count(part) for part in parts) == loss.count(batch) > 0


def test_a_teacher_is_not_trained(
    loss: Loss, stack: SublayerStack, teacher: SublayerStack | None, batch: Batch
) -> None:
    loss(stack, hidden_states(stack, batch), batch, teacher).backward()
    if teacher is not None:
        assert all(p.grad is None for p in teacher.model.parameters())


def test_the_loss_of_answers_is_their_negative_log_likelihood(
    stack: SublayerStack, batch: Batch, tiny_tokenizer: TinyTokenizer, plain_scores: Any
) -> None:
    expected = -sum(plain_scores(stack.model, tiny_tokenizer(), i)[i.gold] for i in ITEMS)
    found = load_loss("answers")(stack, hidden_states(stack, batch), batch, teacher=None)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_hidden_states_are_compared_with_the_teachers_by_item(
    stack: SublayerStack, batch: Batch, tiny_model: TinyModel
) -> None:
    teacher = SublayerStack(tiny_model("llama", seed=1))
    hidden, target = hidden_states(stack, batch), hidden_states(teacher, batch)
    expected = load_loss("answers")(stack, hidden, batch, teacher=None)
    for i, item in enumerate(ITEMS):
        n = int(batch.token_mask[i].sum())
        scored = int((batch.item_index == i).sum())
        assert scored > 0, item
        distance = torch.dist(hidden[i, :n], target[i, :n]) ** 2
        expected = expected + scored * distance / torch.linalg.norm(target[i, :n]) ** 2
    assert_same(load_loss("hidden_states")(stack, hidden, batch, teacher), expected)


def test_a_perfect_student_has_the_loss_of_its_answers(stack: SublayerStack, batch: Batch) -> None:
    hidden = hidden_states(stack, batch)
    assert_same(
        load_loss("hidden_states")(stack, hidden, batch, stack),
        load_loss("answers")(stack, hidden, batch, teacher=None),
    )

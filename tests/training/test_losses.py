"""Every loss file: values and gradients of the plain model, and sums over parts of a batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.host_waits import fake_cuda
from tests.tiny import TinyModel, TinyTokenizer
from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.evaluation import likelihoods
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
ALONE = Item("is it he or she?", (" on",), 0)  # without alternatives, as in a mixture of tasks


@pytest.fixture
def stack(tiny_model: TinyModel) -> SublayerStack:
    stack = SublayerStack(tiny_model("llama"))
    stack.drop(Sublayer(1, "attention"))
    return stack


def batch_of(tokenizer: Any, items: list[Item] = ITEMS, *, only_gold: bool = True) -> Batch:
    return collate([encode(tokenizer, item, 256, only_gold) for item in items])


@pytest.fixture(params=plugin_names(LOSSES))
def loss(request: pytest.FixtureRequest) -> Loss:
    return load_loss(request.param)


@pytest.fixture
def batch(request: pytest.FixtureRequest, tiny_tokenizer: TinyTokenizer) -> Batch:
    """Right choices alone, unless the loss of a contract test compares choices."""
    every = "loss" in request.fixturenames and request.getfixturevalue("loss").all_choices
    return batch_of(tiny_tokenizer(), only_gold=not every)


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
    assert loss.count(batch.unscored()) == 0  # of a process without items in a step


def test_a_loss_waits_for_no_gpu(
    loss: Loss, stack: SublayerStack, teacher: SublayerStack | None, batch: Batch
) -> None:
    expected = loss(stack, hidden_states(stack, batch), batch, teacher)
    with torch.no_grad(), fake_cuda() as waits:
        for model in filter(None, (stack, teacher)):
            model.model.to("cuda")
        on_card = batch.to("cuda")
        waits.clear()
        found = loss(stack, hidden_states(stack, on_card), on_card, teacher)
        assert waits == []
        assert_same(found.cpu(), expected)


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


@pytest.mark.parametrize("name", ["hidden_states", "logits"])
def test_a_perfect_student_has_the_loss_of_its_answers(
    name: str, stack: SublayerStack, batch: Batch
) -> None:
    hidden = hidden_states(stack, batch)
    assert_same(
        load_loss(name)(stack, hidden, batch, stack),
        load_loss("answers")(stack, hidden, batch, teacher=None),
    )


# ---- values, the plain way: every text alone, the LM head at every position ---------------------


def plain_log_probs(stack: SublayerStack, ids: Tensor) -> Tensor:
    """Of the next token behind every token of a text.  # (T,) -> (T, V)"""
    return stack.model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)


def right_texts(tokenizer: Any) -> list[tuple[Tensor, int]]:
    """Token ids of every item with its right choice, and the index of the first answer token."""
    texts = []
    for item in ITEMS:
        ids = tokenizer(item.context + item.choices[item.gold])["input_ids"]
        texts.append((torch.tensor(ids), len(tokenizer(item.context)["input_ids"])))
    return texts


def negative_log_probs(stack: SublayerStack, ids: Tensor) -> Tensor:
    """Of every token of a text but the first.  # (T - 1,)"""
    return -plain_log_probs(stack, ids)[:-1].gather(1, ids[1:, None])[:, 0]


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The LM head takes several calls for a batch."""
    monkeypatch.setattr(likelihoods, "HEAD_ROWS", 7)


@pytest.mark.usefixtures("few_rows")
def test_logits_are_compared_with_the_teachers_where_answers_are_predicted(
    stack: SublayerStack, batch: Batch, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    teacher = SublayerStack(tiny_model("llama", seed=1))
    expected = torch.zeros((), dtype=torch.float64)
    for ids, start in right_texts(tiny_tokenizer()):
        ours, theirs = (plain_log_probs(s, ids)[start - 1 : -1] for s in (stack, teacher))
        expected = expected + negative_log_probs(stack, ids)[start - 1 :].sum()
        expected = expected + (theirs.detach().exp() * (theirs.detach() - ours)).sum()
    found = load_loss("logits")(stack, hidden_states(stack, batch), batch, teacher)
    assert_same(found, expected)
    # LLaMA's norms compute in float32: other orders of addition round otherwise
    plain = gradients(stack, expected)
    torch.testing.assert_close(gradients(stack, found), plain, rtol=1e-5, atol=1e-5)


def test_the_loss_of_choices_is_a_softmax_over_what_accuracy_compares(
    stack: SublayerStack, tiny_tokenizer: TinyTokenizer, plain_scores: Any
) -> None:
    """And 0.3 of the answers; one without alternatives has nothing but that."""
    items, expected = [*ITEMS, ALONE], 0.0
    for item in items:
        plain = plain_scores(stack.model, tiny_tokenizer(), item)
        scores = torch.tensor(plain, dtype=torch.float64)  # (K,)
        tokens = len(batch_of(tiny_tokenizer(), [item]).targets)
        right = float(scores[item.gold])
        expected += float(scores.logsumexp(0)) - right - 0.3 * right / tokens
    batch = batch_of(tiny_tokenizer(), items, only_gold=False)
    found = load_loss("choices")(stack, hidden_states(stack, batch), batch, teacher=None)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(stack, found).values())
    assert load_loss("choices").count(batch) == len(items)


@pytest.mark.usefixtures("few_rows")
def test_a_context_weighs_as_much_as_its_answer(
    stack: SublayerStack, batch: Batch, tiny_tokenizer: TinyTokenizer
) -> None:
    expected = torch.zeros((), dtype=torch.float64)
    for ids, start in right_texts(tiny_tokenizer()):
        losses = negative_log_probs(stack, ids)
        context, answer = losses[: start - 1], losses[start - 1 :]
        expected = expected + len(answer) * (context.mean() + answer.mean())
    found = load_loss("context")(stack, hidden_states(stack, batch), batch, teacher=None)
    assert_same(found, expected)
    assert_same(gradients(stack, found), gradients(stack, expected))


def test_a_text_without_a_context_has_the_loss_of_its_tokens(
    stack: SublayerStack, tiny_tokenizer: TinyTokenizer
) -> None:
    batch = batch_of(tiny_tokenizer(), [Item("", ("the owl is on the bin",), 0)])
    hidden = hidden_states(stack, batch)
    answers, context = (load_loss(n)(stack, hidden, batch, None) for n in ("answers", "context"))
    assert_same(context, answers)

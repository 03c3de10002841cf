"""A training step: its loss and its gradients are those of the plain way."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor
from torch.nn.functional import cross_entropy

from trimlab.data.batching import TENSORS, Batch, collate
from trimlab.data.domain import DomainData
from trimlab.data.encoding import EncodedItem, encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.model.family import FAMILIES
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer
from trimlab.plugins import plugin_names
from trimlab.training.losses import Loss
from trimlab.training.module import DomainLM

ITEMS = [
    Item("the owl is in the bin:", (" yes", " no, never"), 1),
    Item("b", ("cat", "dog"), 1),
    Item("question: what is 2 - 1?\nanswer: ", ("1", "an owl", "the man"), 2),
    Item("where is the man?", (" on the bin", " in"), 0),
]


@pytest.fixture
def module(tmp_path: Path, tiny_folder: Any, request: pytest.FixtureRequest) -> DomainLM:
    made = DomainLM(str(tiny_folder(tmp_path, getattr(request, "param", "llama"))))
    made.log = lambda *_args, **_options: None  # no trainer here
    return made.double().eval()  # without dropout: the plain way draws other masks


def training_batch(module: DomainLM) -> Batch:
    return collate([encode(module.tokenizer, item, 256, only_gold=True) for item in ITEMS])


def plain_loss(module: DomainLM) -> Tensor:
    """Every text alone, logits everywhere: mean loss of the answer tokens."""
    losses = []
    for item in ITEMS:
        start = len(module.tokenizer(item.context)["input_ids"])
        ids = torch.tensor([module.tokenizer(item.context + item.choices[item.gold])["input_ids"]])
        logits = module.model(input_ids=ids, use_cache=False).logits[0]
        losses.append(cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none"))
    return torch.cat(losses).mean()


def gradients(module: DomainLM, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in module.model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("train_tokens", [4096, 40, 1])
@pytest.mark.parametrize("module", plugin_names(FAMILIES), indirect=True)
def test_a_sparse_step_has_the_gradients_of_a_full_one(module: DomainLM, train_tokens: int) -> None:
    module.train_tokens = train_tokens
    module.drop(Sublayer(1, "mlp"), *([Sublayer(1, "attention")] if module.stack.parallel else []))
    for parameter in module.model.parameters():
        parameter.requires_grad_(True)
    loss = plain_loss(module)
    full = gradients(module, loss)

    trainable = [Sublayer(0, "mlp"), Sublayer(2, "attention"), Sublayer(3, "mlp")]
    module.freeze_all_but(trainable)
    step = module.training_step(training_batch(module), 0)
    assert step is not None
    # Gemma's norms compute in float32, whatever the weights are
    tolerance = 1e-5 if module.model.config.model_type.startswith("gemma") else 1e-10
    torch.testing.assert_close(step, loss, rtol=tolerance, atol=tolerance)
    sparse = gradients(module, step)
    names = {p: name for name, p in module.model.named_parameters()}
    assert set(sparse) == {names[p] for s in trainable for p in module.stack.parameters(s)}
    # some gradients are zero but for rounding: that of a key's bias, for one
    scale = max(float(gradient.abs().max()) for gradient in full.values())
    for name, gradient in sparse.items():
        torch.testing.assert_close(
            gradient, full[name], rtol=tolerance, atol=tolerance * scale, msg=name
        )


def test_a_step_never_keeps_more_than_its_tokens(module: DomainLM) -> None:
    module.train_tokens = 20
    batch = training_batch(module)
    widths: list[int] = []
    module.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: widths.append(args[0].numel())
    )
    loss = module.training_step(batch, 0)
    assert loss is not None
    loss.backward()
    longest = int(batch.token_mask.sum(1).max())
    assert len(widths) > 2 and max(widths) <= max(20, longest)


def test_a_scaled_loss_has_scaled_gradients(module: DomainLM) -> None:
    """Gradient accumulation divides the loss before its backward pass."""
    whole = module.training_step(training_batch(module), 0)
    assert whole is not None
    expected = gradients(module, whole)
    half = module.training_step(training_batch(module), 0)
    assert half is not None
    for name, gradient in gradients(module, half / 2).items():
        torch.testing.assert_close(gradient, expected[name] / 2, msg=name)


@pytest.mark.parametrize("train_tokens", [4096, 1])
def test_parameters_that_share_a_gradient(module: DomainLM, train_tokens: int) -> None:
    """The gradient of a sum is one tensor for both of its parts: it must be scaled once."""
    module.train_tokens = train_tokens
    one, two = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    module.model.register_parameter("one", one)
    module.model.register_parameter("two", two)

    class Squares(Loss):
        def __call__(self, stack: Any, hidden: Any, batch: Batch, teacher: Any) -> Tensor:
            return ((one + two) ** 2).sum() * len(batch.targets)

    module.loss = Squares()
    step = module.training_step(training_batch(module), 0)
    assert step is not None
    found = gradients(module, step / 2)
    # d/da of the sum of (a + b)^2 is 2 (a + b) = 4, and a half of it
    torch.testing.assert_close(found["one"], torch.full((3,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(found["two"], found["one"])


@pytest.mark.parametrize("train_tokens", [4096, 1])
def test_a_loss_of_all_positions_reads_valid_hidden_states(
    module: DomainLM, train_tokens: int
) -> None:
    """The last MLP runs everywhere for it, and its own number of terms divides the sum."""

    class Squares(Loss):
        all_positions = True

        def __call__(self, stack: Any, hidden: Tensor, batch: Batch, teacher: Any) -> Tensor:
            return hidden[batch.token_mask].square().sum()

        def count(self, batch: Batch) -> int:
            return int(batch.token_mask.sum())

    module.loss, module.train_tokens = Squares(), train_tokens
    states = []
    for item in ITEMS:
        ids = torch.tensor([module.tokenizer(item.context + item.choices[item.gold])["input_ids"]])
        states.append(module.model.base_model(ids[:, :-1], use_cache=False).last_hidden_state[0])
    expected = torch.cat(states).square().sum(-1).mean()  # over tokens
    full = gradients(module, expected)
    step = module.training_step(training_batch(module), 0)
    assert step is not None
    torch.testing.assert_close(step, expected)
    for name, gradient in gradients(module, step).items():
        torch.testing.assert_close(gradient, full.get(name, torch.zeros_like(gradient)))


@pytest.mark.parametrize("loss", ["choices", "context"])
def test_a_fit_gives_a_loss_the_items_that_it_needs(
    loss: str, root: Path, tmp_path: Path, tiny_folder: Any
) -> None:
    module = DomainLM(str(tiny_folder(tmp_path)), loss=loss, train_tokens=64)
    data = DomainData(module.tokenizer, "jsonl", root, calibration_rows=4, dev_rows=4, batch_size=3)
    seen: list[Batch] = []

    class See(L.Callback):
        def on_train_batch_start(self, _trainer: Any, _module: Any, batch: Any, _: int) -> None:
            seen.append(batch)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, callbacks=[See()], **quiet
    )
    trainer.fit(module, datamodule=data)
    expected = data.train_items(all_choices=loss == "choices")
    order = [i for batch in seen for i in batch.order.tolist()]
    assert sorted(order) == [*range(len(expected))]
    assert [t for batch in seen for t in batch.targets.tolist()] == [
        token for i in order for token in expected[i].targets
    ]
    assert trainer.callback_metrics["train_loss"].isfinite()


def test_unknown_losses_are_refused(tmp_path: Path, tiny_folder: Any) -> None:
    with pytest.raises(InputError, match="no loss 'nosuch'; there are .*answers"):
        DomainLM(str(tiny_folder(tmp_path)), loss="nosuch")


def test_nothing_trainable_skips_the_step(module: DomainLM) -> None:
    module.freeze_all_but([])
    assert module.training_step(training_batch(module), 0) is None


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), max_tokens=st.integers(1, 120)
)
def test_parts_of_a_batch(lengths: list[int], max_tokens: int) -> None:
    items = [
        EncodedItem(
            tuple(range(10 * i, 10 * i + n)),
            tuple(range(n)),
            (0,) * n,
            (n - 1, 0),
            (i, n),
            (0, 1),
            i,
        )
        for i, n in enumerate(lengths)
    ]
    parts = collate(items).parts(max_tokens)
    assert sorted(torch.cat([part.gold for part in parts]).tolist()) == list(range(len(items)))
    for part in parts:
        own = collate(items, part.gold.tolist())
        for name in TENSORS:
            assert torch.equal(getattr(part, name), getattr(own, name)), name
        assert part.input_ids.numel() <= max_tokens or len(part) == 1


@pytest.mark.parametrize("family", plugin_names(FAMILIES))
def test_half_precision_is_that_of_a_model_loaded_in_it(
    tmp_path: Path, tiny_folder: Any, family: str
) -> None:
    """Rounded frequencies of rotary positions would be other positions."""
    folder = str(tiny_folder(tmp_path, family))
    module = DomainLM(folder)
    HalfPrecision("bf16-true").convert_module(module)
    expected = load_model(folder, dtype=torch.bfloat16)[0]
    ids = torch.arange(40)[None] % module.model.config.vocab_size
    found = module.model.eval()(ids, use_cache=False).logits
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected(ids, use_cache=False).logits)

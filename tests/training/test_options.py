"""Options of training that save memory or time: the steps are those of the plain way."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.tiny import TinyFolder
from trimlab.data.batching import Batch, collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer
from trimlab.plugins import plugin_names
from trimlab.training import compiled
from trimlab.training.losses import Loss
from trimlab.training.module import DomainLM
from trimlab.training.optimizers import OPTIMIZERS, load_optimizer

ITEMS = [
    Item("the owl is in the bin:", (" yes", " no, never"), 1),
    Item("b", ("cat", "dog"), 1),
    Item("question: what is 2 - 1?\nanswer: ", ("1", "an owl", "the man"), 2),
    Item("where is the man?", (" on the bin", " in"), 0),
]
TRAINABLE = [Sublayer(1, "attention"), Sublayer(2, "mlp"), Sublayer(3, "mlp")]


def make(base: Path, **options: Any) -> DomainLM:
    """A module in float64 that has dropped a sublayer and trains three."""
    torch.manual_seed(0)
    module = DomainLM(str(base), **options).double()
    module.drop(Sublayer(2, "attention"))
    module.freeze_all_but(TRAINABLE)
    return module


def batch_of(module: DomainLM, items: list[Item] = ITEMS, *, tree: bool = False) -> Batch:
    return collate([encode(module.tokenizer, item, 256, only_gold=not tree) for item in items])


def step(module: DomainLM, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss = module.training_step(batch, 0)
    assert loss is not None
    module.zero_grad()
    loss.backward()
    named = module.model.named_parameters()
    return loss.detach(), {name: p.grad for name, p in named if p.grad is not None}


class Data(L.LightningDataModule):
    """Batches of fixed items."""

    def __init__(self, batches: list[Batch]):
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def trained(module: DomainLM, batches: list[Batch], **settings: Any) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        **{"precision": "64-true"} | settings,
    )
    trainer.fit(module, datamodule=Data(batches))
    return trainer


# ---- activation checkpointing -----------------------------------------------------------------


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("train_tokens", [4096, 40])
def test_checkpointed_gradients_are_identical(base: Path, train_tokens: int, tree: bool) -> None:
    plain = make(base, train_tokens=train_tokens)
    saving = make(base, train_tokens=train_tokens, activation_checkpointing=True)
    batch = batch_of(plain, tree=tree)
    loss, expected = step(plain, batch)
    found_loss, found = step(saving, batch)
    assert torch.equal(found_loss, loss)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_only_blocks_with_a_gradient_run_twice(base: Path) -> None:
    counts = []
    for checkpointing in (False, True):
        module = make(base, activation_checkpointing=checkpointing)
        passes = [0] * 4
        for index, block in enumerate(module.stack.blocks):

            def count(*_args: Any, passes: list[int] = passes, index: int = index) -> None:
                passes[index] += 1

            block.get_submodule("post_attention_layernorm").register_forward_pre_hook(count)
        step(module, batch_of(module))
        counts.append(passes)
    plain, saving = counts
    # nothing is trained below the attention of block 1
    assert saving == [plain[0], *(2 * n for n in plain[1:])]


# ---- torch.compile ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "checkpointing"), [("eager", True), ("inductor", False)])
def test_compiled_gradients_and_scans(
    tmp_path: Path,
    tiny_folder: TinyFolder,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    checkpointing: bool,
) -> None:
    """Compiled code runs in training steps only, also after a drop, and a bypass keeps working."""
    monkeypatch.setattr(compiled, "BACKEND", backend)  # eager: traced and guarded, no code made
    base = tiny_folder(tmp_path, num_hidden_layers=2)
    options = {"activation_checkpointing": checkpointing}
    plain, fast = (DomainLM(str(base), compile=on, **options).double() for on in (False, True))
    batch = batch_of(plain)
    for drop in [(), (Sublayer(0, "attention"),)]:
        for module in (plain, fast):
            module.drop(*drop)
        _, expected = step(plain, batch)
        _, found = step(fast, batch)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            # the norms compute in float32; the gradients are about 0.1
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    with plain.stack.bypass(Sublayer(0, "mlp")), fast.stack.bypass(Sublayer(0, "mlp")):
        states = [module.stack.hidden(input_ids=batch.input_ids) for module in (plain, fast)]
    assert torch.equal(*states)


def test_no_compiler_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "nosuch-compiler")
    with pytest.raises(InputError, match="C\\+\\+ compiler"):
        compiled.check_compiler(torch.device("cpu"))


# ---- gradient accumulation --------------------------------------------------------------------


def test_accumulated_batches_equal_one_larger_batch(base: Path) -> None:
    """Batches of different numbers of answer tokens; the last step of an epoch has fewer."""
    whole = make(base, lr=1e-3, schedule="linear")
    items = [*ITEMS, *ITEMS[:2]]
    trainer = trained(whole, [batch_of(whole, items[:4]), batch_of(whole, items[4:])])
    parts = make(base, lr=1e-3, schedule="linear", train_tokens=40)
    batches = [batch_of(parts, items[i : i + 1]) for i in range(6)]
    accumulating = trained(parts, batches, accumulate_grad_batches=4)
    assert trainer.global_step == accumulating.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(
        accumulating.optimizers[0].param_groups[0]["lr"]
    )
    torch.testing.assert_close(
        accumulating.callback_metrics["train_loss"], trainer.callback_metrics["train_loss"]
    )
    expected = dict(whole.model.named_parameters())
    for name, parameter in parts.model.named_parameters():
        # the norms compute in float32; a step is 1e-3
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6, msg=name)


# ---- optimizers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plugin_names(OPTIMIZERS))
def test_what_stays_keeps_its_moments(name: str) -> None:
    """A parameter that goes changes nothing for the others; its own moments are gone."""
    factory = load_optimizer(name)
    factory.check(torch.device("cpu"))

    def run(drop: bool) -> tuple[Tensor, torch.optim.Optimizer]:
        torch.manual_seed(0)
        gone, kept = (nn.Parameter(torch.randn(80, 64)) for _ in range(2))
        optimizer = factory.make([gone, kept], lr=0.01, weight_decay=0.1)
        for at in range(4):
            if at == 2 and drop:
                factory.keep(optimizer, [kept])
            gone.grad, kept.grad = torch.ones_like(gone), kept.detach().sin()
            optimizer.step()
        return kept.detach(), optimizer

    with_both, _ = run(drop=False)
    alone, optimizer = run(drop=True)
    assert torch.equal(with_both, alone)
    assert len(optimizer.state) == 1 and len(optimizer.param_groups[0]["params"]) == 1


@pytest.mark.parametrize("name", plugin_names(OPTIMIZERS))
def test_restored_moments_go_on_as_if_never_saved(name: str, tmp_path: Path) -> None:
    def steps(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> None:
        for _ in range(3):
            for weight in weights:
                weight.grad = weight.detach().sin()
            optimizer.step()

    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(80, 64)), nn.Parameter(torch.randn(9))]
    optimizer = load_optimizer(name).make(weights, lr=0.01, weight_decay=0.1)
    steps(optimizer, weights)
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    torch.save(optimizer.state_dict(), tmp_path / "state")
    steps(optimizer, weights)
    again = load_optimizer(name).make(copies, lr=0.5, weight_decay=0.0)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    steps(again, copies)
    assert all(torch.equal(weight, copy) for weight, copy in zip(weights, copies, strict=True))


def test_adamw_8bit_follows_adamw() -> None:
    torch.manual_seed(0)
    start = torch.randn(80, 64)
    ends = []
    for name in ("adamw", "adamw_8bit"):
        weight = nn.Parameter(start.clone())
        optimizer = load_optimizer(name).make([weight], lr=0.01, weight_decay=0.0)
        for _ in range(10):
            weight.grad = weight.detach().clone()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0.02)  # of a way of 0.1
    assert not torch.equal(ends[1], ends[0])


def test_overrides_of_bitsandbytes_stay_with_their_parameter() -> None:
    """Its manager knows parameters by their number, which changes when one before them goes."""
    from bitsandbytes.optim.optimizer import GlobalOptimManager

    factory = load_optimizer("adamw_8bit")
    gone, exact, other = (nn.Parameter(torch.ones(80, 64)) for _ in range(3))
    manager = GlobalOptimManager.get_instance()
    manager.override_config(exact, "optim_bits", 32)
    manager.register_parameters([gone, exact, other])
    optimizer = factory.make([gone, exact, other], lr=0.01, weight_decay=0.0)
    factory.keep(optimizer, [exact, other])
    for parameter in (exact, other):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.state[exact]["state1"].dtype == torch.float32
    assert optimizer.state[other]["state1"].dtype == torch.uint8


def test_unknown_optimizers_are_refused(base: Path) -> None:
    with pytest.raises(InputError, match="no optimizer 'sgd'; there are adamw, adamw_8bit"):
        DomainLM(str(base), optimizer="sgd")


# ---- waits for the device ---------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt", "gpt_neox"])
def test_a_step_reads_nothing_from_the_device(
    tmp_path: Path, tiny_folder: TinyFolder, family: str
) -> None:
    """Tensors on `meta` have no values: whatever reads one raises, as it would wait for a GPU."""
    module = DomainLM(str(tiny_folder(tmp_path, family)), train_tokens=40)
    module.freeze_all_but([Sublayer(0, "mlp"), Sublayer(2, "attention")])
    batch = batch_of(module)
    module.to("meta")
    optimizer = module.train_optimizer.make(module._trained(), 1e-3, 0.0)
    loss = module.training_step(batch.to("meta"), 0)
    assert loss is not None
    (loss / 2).backward()
    optimizer.step()


def test_a_step_that_reads_is_noticed(base: Path) -> None:
    """The check above can fail."""

    class Reading(Loss):
        def __call__(self, stack: Any, hidden: Tensor, batch: Batch, teacher: Any) -> Tensor:
            return hidden[batch.token_mask].sum()  # a boolean index waits

    module = make(base)
    module.loss = Reading()
    batch = batch_of(module)
    module.to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        module.training_step(batch.to("meta"), 0)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"lora_rank": 4}])
def test_a_step_on_a_gpu_waits_once(base: Path, options: dict[str, Any]) -> None:
    """Forward and backward pass and optimizer; the loss is read in a hook of its own."""
    torch.manual_seed(0)
    module = DomainLM(str(base), train_tokens=40, **options).to("cuda", torch.bfloat16)
    module.freeze_all_but(TRAINABLE)
    optimizer = module.train_optimizer.make(module._trained(), 1e-3, 0.0)
    host = batch_of(module)
    for _ in range(2):  # the first step loads kernels and allocates
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss = module.training_step(host.to("cuda"), 0)
            assert loss is not None
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)

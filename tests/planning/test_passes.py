"""Counted passes, against plain arithmetic and a real block."""

from typing import Any

import pytest
import torch

from tests.planning.jobs import ATTENTION, MLP, TINY
from trimlab.model.shape import random_model, shape_config
from trimlab.model.sublayers import SublayerStack
from trimlab.planning import passes as passes_module
from trimlab.planning.passes import Passes, PassSettings


def saved_bytes(block: Any, *args: Any, **kwargs: Any) -> int:
    """Bytes that a real forward pass keeps for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(*args, **kwargs)
    given = {t.untyped_storage().data_ptr() for t in (args[0], *kwargs["position_embeddings"])}
    made = {key: size for key, size in kept.items() if key not in given}
    return sum((made | {out.untyped_storage().data_ptr(): out.untyped_storage().nbytes()}).values())


@pytest.mark.parametrize("trained", [frozenset(), frozenset({"attention"}), frozenset({"mlp"})])
def test_saved_activations_are_those_of_a_real_block(trained: frozenset[Any]) -> None:
    model = random_model(TINY, torch.float32, torch.device("cpu")).train()
    stack = SublayerStack(model)
    stack.freeze_all_but(s for s in stack if s.kind in trained)
    state = torch.randn(4, 16, 32, requires_grad=True)
    rotary = model.base_model.rotary_emb(state, torch.arange(16)[None])  # type: ignore[operator]
    real = saved_bytes(stack.blocks[0], state, position_embeddings=rotary, attention_mask=None)
    assert Passes(TINY, PassSettings()).block(4, 16, trained=trained).saved == real


def test_flops_of_a_block() -> None:
    cost = Passes(TINY, PassSettings()).block(2, 16, trained=frozenset({"attention", "mlp"}))
    tokens, matrices = 2 * 16, (ATTENTION - 32) + (MLP - 32)
    products = 2 * tokens * matrices
    attention = 4 * tokens * 16 * 32  # queries times keys, and their values
    assert sum(op.flops * n for op, n in cost.forward.items()) == products + attention
    backward = 2 * products + 2.5 * attention
    assert sum(op.flops * n for op, n in cost.backward.items()) == backward


def test_no_weight_gradients_where_nothing_is_trained() -> None:
    passes = Passes(TINY, PassSettings())
    frozen = passes.block(2, 16, trained=frozenset())
    trained = passes.block(2, 16, trained=frozenset({"mlp"}))
    flops = [sum(op.flops * n for op, n in cost.backward.items()) for cost in (frozen, trained)]
    assert flops[1] - flops[0] == 2 * 32 * (MLP - 32)


def test_checkpointing_keeps_the_input_alone() -> None:
    passes = Passes(TINY, PassSettings(checkpointing=True))
    cost = passes.block(4, 16, trained=frozenset({"mlp"}))
    assert cost.saved == 4 * 16 * 32 * 4  # the output, which is the input of the next block


def test_bytes_of_many_items_follow_from_those_of_few() -> None:
    passes = Passes(TINY, PassSettings())
    trained = frozenset({"mlp"})
    exact = passes.block(16, 32, trained=trained)
    quick = passes.block_bytes(16, 32, trained=trained)
    assert quick.saved == exact.saved
    assert quick.backward_peak == pytest.approx(exact.backward_peak, rel=0.02)
    exact = passes.head(8, 32, 96, trained=False)
    quick = passes.head_bytes(8, 32, 96, trained=False)
    assert quick.saved == pytest.approx(exact.saved, rel=0.02)


def test_the_lm_head_of_a_gpu_takes_more_positions_at_once() -> None:
    assert Passes(TINY, PassSettings()).rows_per_call == 256
    assert Passes(TINY, PassSettings(cuda=True)).rows_per_call == 2**27 // 128
    passes = Passes(shape_config("llama-7b"), PassSettings(cuda=True))
    assert passes.head_call(2**20).forward_peak > passes.rows_per_call * 32000 * 4  # float32 logits


def test_one_model_is_built_for_all_counted_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    from_config = passes_module.AutoModelForCausalLM.from_config

    def counted(*args: Any, **options: Any) -> Any:
        made.append(args)
        return from_config(*args, **options)

    monkeypatch.setattr(passes_module.AutoModelForCausalLM, "from_config", counted)
    passes = Passes(TINY, PassSettings())
    first = passes.block(4, 16, trained=frozenset({"mlp"}))
    passes.block(4, 16, trained=frozenset({"attention"}))
    passes.head(2, 16, 32, trained=True)
    passes.block(4, 16, tree=True)
    assert len(made) == 1
    # and none of them changes what another one counts
    assert passes.block(2, 16, trained=frozenset({"mlp"})) == Passes(TINY, PassSettings()).block(
        2, 16, trained=frozenset({"mlp"})
    )
    assert first == Passes(TINY, PassSettings()).block(4, 16, trained=frozenset({"mlp"}))

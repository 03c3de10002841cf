"""Linear layers through oneDNN: the same numbers, and the model as it was afterwards."""

import pytest
import torch
from torch import nn

from tests.tiny import TinyModel
from trimlab.cpu.onednn import onednn_linears
from trimlab.model.family import FAMILIES
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names

IDS = torch.randint(4, 60, (3, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", plugin_names(FAMILIES))
def test_the_logits_are_those_of_the_plain_model(family: str, tiny_model: TinyModel) -> None:
    model = tiny_model(family, dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.inference_mode():
        plain = model(IDS).logits
        with onednn_linears(model):
            fast = model(IDS).logits
            # it did run: the weights are elsewhere
            assert any(m.weight.numel() == 0 for m in model.modules() if type(m) is nn.Linear)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, plain)
    model(IDS).logits.sum().backward()  # and it can be trained
    assert all(p.grad is not None for p in model.parameters())


def test_contexts_nest_and_end_with_an_error(tiny_model: TinyModel) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    stack = SublayerStack(model)
    with torch.inference_mode():
        with stack.bypass(Sublayer(1, "mlp")):
            plain = model(IDS).logits
        with onednn_linears(model), onednn_linears(model), stack.bypass(Sublayer(1, "mlp")):
            fast = model(IDS).logits
        with pytest.raises(IndexError), onednn_linears(model):
            model(IDS + 1000)  # no such tokens
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.numel() and "forward" not in vars(m) for m in linears)


def test_an_interrupted_start_leaves_the_model_as_it_was(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gemma3_text", dtype=torch.float32)
    with torch.inference_mode():
        plain = model(IDS).logits
    reorder, reordered = torch.ops.mkldnn._reorder_linear_weight, []

    def third_time(weight: torch.Tensor) -> torch.Tensor:
        reordered.append(weight.shape)
        if len(reordered) == 3:
            raise KeyboardInterrupt
        return reorder(weight)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", third_time)
    with pytest.raises(KeyboardInterrupt), onednn_linears(model):
        raise AssertionError("it was interrupted before")
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, plain)


def test_an_interrupted_end_leaves_a_working_model(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    with torch.inference_mode():
        plain = model(IDS).logits
    put_back = []

    def third_time(weight: torch.Tensor) -> torch.Tensor:
        put_back.append(weight)
        if len(put_back) == 3:
            raise KeyboardInterrupt
        return to_dense(weight)

    to_dense = torch.Tensor.to_dense
    monkeypatch.setattr(torch.Tensor, "to_dense", third_time)
    with pytest.raises(KeyboardInterrupt), onednn_linears(model):
        pass
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, plain, rtol=1e-4, atol=1e-5)


def test_a_tied_head_and_other_types_keep_their_weights(tiny_model: TinyModel) -> None:
    tied = tiny_model("gemma3_text", dtype=torch.float32)
    hidden = torch.randn(5, 32)
    plain = tied.lm_head(hidden)
    with torch.inference_mode(), onednn_linears(tied):
        torch.testing.assert_close(tied.lm_head(hidden), plain, rtol=1e-4, atol=1e-6)
        assert tied.lm_head.weight is tied.model.embed_tokens.weight
        assert tied.lm_head.weight.numel()
        assert "forward" in vars(tied.lm_head)  # oneDNN reads it as it is
    double = tiny_model("llama")
    with onednn_linears(double):
        assert all(m.weight.numel() for m in double.modules() if isinstance(m, nn.Linear))


def test_a_gate_is_fused_with_its_tanh_gelu(tiny_model: TinyModel) -> None:
    model = tiny_model("gemma3_text", dtype=torch.float32)
    mlp, x = model.model.layers[0].mlp, torch.randn(3, 32)
    with torch.inference_mode():
        wanted, negative = mlp.act_fn(mlp.gate_proj(x)), torch.tensor([-1.0])
        with onednn_linears(model):
            torch.testing.assert_close(mlp.gate_proj(x), wanted, rtol=1e-4, atol=1e-6)
            assert mlp.act_fn(negative) == negative
        assert mlp.act_fn(negative) != negative

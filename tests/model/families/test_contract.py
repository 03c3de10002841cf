"""What every family file promises: dropping is exact, complete, and safe with a KV cache."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import TinyModel
from trimlab.errors import InputError
from trimlab.model.family import FAMILIES, family_of
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names

ALL = [Sublayer(block, kind) for block in range(4) for kind in ("attention", "mlp")]
DROPS: dict[str, list[Sublayer]] = {
    "the first attention": [Sublayer(0, "attention")],
    "the last MLP": [Sublayer(3, "mlp")],
    "a whole block": [Sublayer(1, "attention"), Sublayer(1, "mlp")],
    "every other attention": [Sublayer(2, "attention"), Sublayer(0, "attention")],
    "all but an attention": [s for s in ALL if s != Sublayer(2, "attention")],
    "all but an MLP": [s for s in ALL if s != Sublayer(1, "mlp")],
}
WINDOW = 8  # the sliding window of the tiny configs that have one
IDS = torch.randint(4, 64, (2, WINDOW + 6), generator=torch.Generator().manual_seed(1))

every_family = pytest.mark.parametrize("family", plugin_names(FAMILIES))
every_drop = pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS.keys())


def tolerance(model: PreTrainedModel) -> float:
    # eager attention (Gemma 2 caps its logits) takes its softmax in float32
    return 1e-6 if model.config._attn_implementation == "eager" else 1e-12


@torch.no_grad()
def plain_logits(model: nn.Module, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    return model(input_ids=ids, use_cache=False, **kwargs).logits


@torch.no_grad()
def stepwise_logits(model: nn.Module, ids: Tensor = IDS, cache: Any = None) -> Tensor:
    """Five tokens at once, then token by token, through a KV cache."""
    logits, start = [], 0
    for end in range(5, ids.shape[1] + 1):
        # positions are given, since a model without attention has no cache that counts them
        out = model(
            input_ids=ids[:, start:end],
            past_key_values=cache,
            use_cache=True,
            position_ids=torch.arange(start, end).expand(len(ids), -1),
        )
        cache = out.past_key_values
        logits.append(out.logits)
        start = end
    return torch.cat(logits, 1)


def silence(stack: SublayerStack, sublayer: Sublayer) -> None:
    """The reference for a drop: everything runs, and the output is multiplied by nothing."""

    def zero(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    stack.modules(sublayer)[-1].register_forward_hook(zero)


@every_drop
@every_family
def test_a_drop_is_a_zero_output_and_removes_the_parameters(
    family: str, drops: list[Sublayer], tiny_model: TinyModel
) -> None:
    model = tiny_model(family)
    reference = copy.deepcopy(model)
    silenced = SublayerStack(reference)
    for sublayer in drops:
        silence(silenced, sublayer)
    before = model.state_dict()
    stack = SublayerStack(model)
    path = {
        f"{stack.family.blocks}.{s.block}.{name}."
        for s in drops
        for name in stack.layout(s).modules
    }
    gone = {key for key in before if key.startswith(tuple(path))}
    bytes_gone = sum(before[key].nbytes for key in gone)
    bytes_before = sum(p.nbytes for p in model.parameters())

    stack.drop(*drops)

    assert torch.equal(plain_logits(model), plain_logits(reference))
    assert gone and model.state_dict().keys() == before.keys() - gone
    bytes_after = sum(p.nbytes for p in model.parameters())
    assert bytes_after == bytes_before - bytes_gone
    assert stack.bytes_of(*drops) == bytes_gone
    assert stack.model_memory_ratio == pytest.approx(bytes_after / bytes_before)
    assert stack.history == drops
    assert list(stack) == [s for s in ALL if s not in drops] and len(stack) == 8 - len(drops)


@every_drop
@every_family
def test_logits_with_and_without_cache_agree(
    family: str, drops: list[Sublayer], tiny_model: TinyModel
) -> None:
    model = tiny_model(family)
    SublayerStack(model).drop(*drops)
    expected = plain_logits(model)
    has_attention = any(s.kind == "attention" for s in ALL if s not in drops)
    caches = [None, DynamicCache(config=model.config), DynamicCache()]
    for cache in caches if has_attention else [None]:
        actual = stepwise_logits(model, cache=cache)
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance(model))


@every_drop
@every_family
def test_generation_with_left_padding_agrees_with_the_plain_forward_pass(
    family: str, drops: list[Sublayer], tiny_model: TinyModel
) -> None:
    model = tiny_model(family)
    if model.config._attn_implementation == "eager":
        model.float()  # float64's lowest mask value is -inf in eager's float32 softmax: NaN
    SublayerStack(model).drop(*drops)
    prompts = [IDS[0, : WINDOW + 3], IDS[1, :4]]
    longest = max(map(len, prompts))
    ids = torch.stack([nn.functional.pad(p, (longest - len(p), 0)) for p in prompts])
    mask = torch.stack([nn.functional.pad(p != -1, (longest - len(p), 0)) for p in prompts])
    for use_cache in (True, False):
        out: Any = model.generate(
            ids,
            attention_mask=mask.long(),
            use_cache=use_cache,
            do_sample=False,
            min_new_tokens=10,
            max_new_tokens=10,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack(out.logits, 1)  # (2, 10, V)
        for row, prompt in enumerate(prompts):
            text = torch.cat([prompt, out.sequences[row, longest:]])[None]
            expected = plain_logits(model, text)[0, len(prompt) - 1 : -1]
            # transformers returns them in float32
            torch.testing.assert_close(logits[row], expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma3_text", "qwen2"])  # kinds of attention differ by block
def test_generation_with_a_static_cache(family: str, tiny_model: TinyModel) -> None:
    model = tiny_model(family)
    SublayerStack(model).drop(Sublayer(0, "attention"))
    settings: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    expected = model.generate(IDS, use_cache=False, **settings)
    assert torch.equal(model.generate(IDS, cache_implementation="static", **settings), expected)


@every_family
def test_gradients_reach_the_trainable_parameters_alone(family: str, tiny_model: TinyModel) -> None:
    model = tiny_model(family)
    stack = SublayerStack(model)
    stack.drop(Sublayer(0, "attention"), Sublayer(2, "mlp"))
    trainable = [Sublayer(1, "mlp"), Sublayer(3, "attention")]
    stack.freeze_all_but([*trainable, Sublayer(0, "attention")])  # the last is gone already
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()

    expected = {id(p) for s in trainable for p in stack.parameters(s)}
    assert {id(p) for p in model.parameters() if p.requires_grad} == expected
    assert {id(p) for p in model.parameters() if p.grad is not None} == expected
    for sublayer in trainable:
        gradients = [p.grad for p in stack.parameters(sublayer)]
        assert all(g is not None and g.isfinite().all() for g in gradients)
        assert any(g is not None and g.abs().max() > 0 for g in gradients)
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert not any(p.requires_grad for p in embedding.parameters())

    stack.freeze_all_but(trainable, embeddings=True)
    in_frozen = {id(p) for s in set(stack) - set(trainable) for p in stack.parameters(s)}
    assert {id(p) for p in model.parameters() if not p.requires_grad} == in_frozen


@every_family
def test_save_load_and_replay_agree(
    family: str, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tiny_model(family)
    stack = SublayerStack(model)
    stack.drop(Sublayer(2, "mlp"), Sublayer(0, "attention"), Sublayer(3, "attention"))
    file = tmp_path_factory.mktemp(family) / "weights.pt"
    torch.save({"history": [str(s) for s in stack.history], "state": model.state_dict()}, file)

    saved = torch.load(file, weights_only=True)
    other = tiny_model(family, seed=1)
    replayed = SublayerStack(other)
    replayed.drop(*map(Sublayer.parse, saved["history"]))
    other.load_state_dict(saved["state"], strict=True)

    assert replayed.history == stack.history and list(replayed) == list(stack)
    assert torch.equal(plain_logits(other), plain_logits(model))
    assert torch.equal(stepwise_logits(other), stepwise_logits(model))


@every_family
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_dropped_model_agree_and_stand_alone(
    family: str, duplicate: Any, tiny_model: TinyModel
) -> None:
    model = tiny_model(family)
    stack = SublayerStack(model)
    stack.drop(Sublayer(0, "attention"), Sublayer(1, "mlp"))
    twin = duplicate(model)
    expected = plain_logits(model)
    stack.drop(Sublayer(2, "attention"))  # does not reach the copy, nor its cache
    assert not torch.equal(plain_logits(model), expected)
    assert torch.equal(plain_logits(twin), expected)
    torch.testing.assert_close(stepwise_logits(twin), expected, rtol=0, atol=tolerance(twin))


@every_family
def test_a_bypass_is_a_drop_that_leaves_no_trace(family: str, tiny_model: TinyModel) -> None:
    model = tiny_model(family)
    dropped = copy.deepcopy(model)
    outer, inner = [Sublayer(0, "attention"), Sublayer(3, "mlp")], Sublayer(1, "attention")
    stack = SublayerStack(model)
    before = snapshot(model)
    stack_of_dropped = SublayerStack(dropped)
    stack_of_dropped.drop(*outer)
    with stack.bypass(*outer):
        assert list(stack) == list(stack_of_dropped) and stack.history == []
        assert torch.equal(plain_logits(model), plain_logits(dropped))
        assert torch.equal(stepwise_logits(model), stepwise_logits(dropped))
        with stack.bypass(inner), stack_of_dropped.bypass(inner):
            assert torch.equal(stepwise_logits(model), stepwise_logits(dropped))
        assert torch.equal(stepwise_logits(model), stepwise_logits(dropped))
        generated = [m.generate(IDS, max_new_tokens=4, do_sample=False) for m in (model, dropped)]
        assert torch.equal(*generated)
    assert_unchanged(model, before)


@every_family
def test_a_bypass_is_undone_when_something_is_raised(family: str, tiny_model: TinyModel) -> None:
    model = tiny_model(family)
    stack = SublayerStack(model)
    before = snapshot(model)
    first, second = Sublayer(0, "attention"), Sublayer(0, "mlp")
    with pytest.raises(KeyboardInterrupt), stack.bypass(first), stack.bypass(second):
        raise KeyboardInterrupt
    missing, twice = Sublayer(9, "mlp"), Sublayer(2, "mlp")
    for wrong in ([first, missing], [twice, twice]):
        with pytest.raises(InputError), stack.bypass(*wrong):
            pass
    assert list(stack) == ALL
    assert_unchanged(model, before)


def snapshot(model: PreTrainedModel) -> tuple[dict[str, Tensor], list[str], list[Any], Tensor]:
    modules = [f"{name} {type(module).__name__}" for name, module in model.named_modules()]
    slots = [getattr(module, "layer_idx", None) for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return state, modules, slots, stepwise_logits(model)


def assert_unchanged(model: PreTrainedModel, before: Any) -> None:
    now = snapshot(model)
    assert now[0].keys() == before[0].keys()
    assert all(torch.equal(now[0][key], before[0][key]) for key in now[0])
    assert now[1:3] == before[1:3]
    assert torch.equal(now[3], before[3])


@every_family
def test_hidden_states_then_head_are_the_logits(family: str, tiny_model: TinyModel) -> None:
    model = tiny_model(family)
    stack = SublayerStack(model)
    with torch.no_grad():
        hidden = stack.hidden(input_ids=IDS)
        assert torch.equal(stack.head(hidden), plain_logits(model))
        before_tail: list[Tensor] = []
        stack.blocks[-1].register_forward_hook(
            lambda _module, _args, output: before_tail.append(output)
        )
        assert torch.equal(stack.hidden(input_ids=IDS), hidden)
        last = before_tail[0][0] if isinstance(before_tail[0], tuple) else before_tail[0]
        assert torch.equal(stack.final_norm(last), hidden)


@every_family
def test_the_family_file_is_named_after_a_causal_lm_of_transformers(
    family: str, tiny_model: TinyModel
) -> None:
    assert family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    model = tiny_model(family)
    assert model.config.model_type == family
    in_sublayers = {p for s in SublayerStack(model) for p in SublayerStack(model).parameters(s)}
    blocks = SublayerStack(model).blocks
    assert {p for block in blocks for p in block.parameters()} == in_sublayers


def test_an_unsupported_model_type_names_the_supported_ones_and_the_file_to_add() -> None:
    with pytest.raises(InputError) as error:
        family_of(GPT2Config())
    message = str(error.value)
    assert "'gpt2'" in message and "trimlab/model/families/gpt2.py" in message
    assert all(name in message for name in plugin_names(FAMILIES))
    assert "\n" not in message


def test_post_norm_opt_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("opt", do_layer_norm_before=False)
    with pytest.raises(InputError, match="do_layer_norm_before=False"):
        SublayerStack(model)


def test_opt_with_a_projection_behind_its_final_norm(tiny_model: TinyModel) -> None:
    test_hidden_states_then_head_are_the_logits(
        "opt", lambda family: tiny_model(family, word_embed_proj_dim=16)
    )


def test_sequential_gpt_neox(tiny_model: TinyModel) -> None:
    def sequential(family: str) -> PreTrainedModel:
        return tiny_model(family, use_parallel_residual=False)

    assert SublayerStack(tiny_model("gpt_neox")).parallel
    assert not SublayerStack(sequential("gpt_neox")).parallel
    test_a_drop_is_a_zero_output_and_removes_the_parameters(
        "gpt_neox", DROPS["every other attention"], sequential
    )

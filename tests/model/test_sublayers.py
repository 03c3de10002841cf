"""The stack itself: names, sizes, order, refusals. That a drop is exact is in families/."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from tests.tiny import TinyModel
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer, SublayerStack

ALL = [Sublayer(block, kind) for block in range(4) for kind in ("attention", "mlp")]
IDS = torch.arange(4, 24)[None]


@pytest.fixture
def stack(tiny_model: TinyModel) -> SublayerStack:
    return SublayerStack(tiny_model("llama"))


def test_a_sublayer_sorts_by_execution_and_is_read_back_from_its_name() -> None:
    assert sorted(reversed(ALL)) == ALL
    assert [str(s) for s in ALL[:3]] == ["0.attention", "0.mlp", "1.attention"]
    assert [Sublayer.parse(str(s)) for s in ALL] == ALL


@pytest.mark.parametrize("text", ["", "3", "3.", ".mlp", "3.ffn", "-1.mlp", "a.mlp", "3.mlp.0"])
def test_a_wrong_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no sublayer"):
        Sublayer.parse(text)


def test_sizes_by_hand(stack: SublayerStack) -> None:
    # hidden 32, 4 heads and 2 key-value heads of 8, intermediate 64, vocabulary 64, float64
    attention = 8 * (32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 32)  # q, k, v, o, norm
    mlp = 8 * (3 * 32 * 64 + 32)  # gate, up, down, norm
    rest = 8 * (2 * 64 * 32 + 32)  # embeddings, head, final norm
    assert stack.bytes_of(Sublayer(1, "attention")) == attention
    assert stack.bytes_of(Sublayer(1, "mlp")) == mlp
    assert stack.bytes_of(*stack) == 4 * (attention + mlp)
    assert stack.model_bytes == 4 * (attention + mlp) + rest
    assert stack.layer_memory_ratio == stack.model_memory_ratio == 1
    stack.drop(Sublayer(1, "mlp"))
    assert stack.layer_memory_ratio == pytest.approx(1 - mlp / (4 * (attention + mlp)))
    assert stack.model_memory_ratio == pytest.approx(1 - mlp / (4 * (attention + mlp) + rest))
    stack.drop(*stack)
    assert len(stack) == 0 and stack.layer_memory_ratio == 0
    assert stack.model_memory_ratio == pytest.approx(rest / (4 * (attention + mlp) + rest))


def test_tied_embeddings_count_once(tiny_model: TinyModel) -> None:
    tied = SublayerStack(tiny_model("llama", tie_word_embeddings=True)).model_bytes
    untied = SublayerStack(tiny_model("llama", tie_word_embeddings=False)).model_bytes
    assert untied - tied == 8 * 64 * 32


def test_what_is_not_there_cannot_be_dropped_and_nothing_changes(stack: SublayerStack) -> None:
    stack.drop(ALL[0])
    before = stack.model.state_dict().keys()
    for wrong in (ALL[0], Sublayer(4, "mlp")):
        with pytest.raises(InputError):
            stack.drop(ALL[3], wrong)
        assert stack.history == [ALL[0]] and list(stack) == ALL[1:]
        assert stack.model.state_dict().keys() == before
    with pytest.raises(InputError):
        stack.drop(ALL[3], ALL[3])
    assert stack.history == [ALL[0]] and list(stack) == ALL[1:]


def test_a_dropped_model_gets_no_second_stack(stack: SublayerStack) -> None:
    stack.drop(ALL[2])
    with pytest.raises(InputError, match="dropped sublayers already"):
        SublayerStack(stack.model)


@settings(max_examples=15)
@given(order=st.permutations(ALL), count=st.integers(1, 8))
def test_the_order_of_drops_does_not_matter(
    order: list[Sublayer], count: int, tiny_model: TinyModel
) -> None:
    one_by_one, at_once = (SublayerStack(tiny_model("gemma3_text")) for _ in range(2))
    for sublayer in order[:count]:
        previous = one_by_one.layer_memory_ratio
        one_by_one.drop(sublayer)
        assert one_by_one.layer_memory_ratio < previous
    at_once.drop(*sorted(order[:count]))
    assert one_by_one.history == order[:count]
    assert list(one_by_one) == list(at_once) == sorted(order[count:])
    with torch.no_grad():
        logits = [s.model(input_ids=IDS).logits for s in (one_by_one, at_once)]
    assert torch.equal(*logits)


def test_training_mode_survives_drops_and_bypasses(stack: SublayerStack) -> None:
    stack.model.train()
    with stack.bypass(ALL[0]):
        assert all(module.training for module in stack.model.modules())
    stack.drop(ALL[1])
    assert all(module.training for module in stack.model.modules())


def test_a_cache_is_made_only_when_asked_for_and_only_for_survivors(stack: SublayerStack) -> None:
    stack.drop(Sublayer(0, "attention"), Sublayer(2, "attention"))

    def lengths(cache: Any) -> list[int]:
        return [layer.get_seq_length() for layer in cache.layers]

    with torch.no_grad():
        assert stack.model(input_ids=IDS, use_cache=False).past_key_values is None
        cache = stack.model(input_ids=IDS).past_key_values
        assert lengths(cache) == [20, 20]
        # a caller's filled cache goes on being filled
        again = stack.model(input_ids=IDS, past_key_values=cache).past_key_values
        assert again is cache and cache.get_seq_length() == 40
        # a caller's empty cache is the one that is filled
        mine = DynamicCache(config=stack.model.config)
        assert stack.model(input_ids=IDS, past_key_values=mine).past_key_values is mine
        assert lengths(mine) == [20, 20]
    assert stack.model.config.num_hidden_layers == 4  # the model's own config stays as it is


def test_the_last_mlp_runs_only_where_it_is_read(stack: SublayerStack) -> None:
    rows: list[int] = []
    stack.modules(ALL[-1])[-1].register_forward_hook(
        lambda _m, args, _o: rows.append(args[0].numel() // 32)
    )
    ids, scored_positions = IDS.repeat(2, 1), torch.tensor([3, 21, 39])
    with torch.inference_mode():
        plain = stack.hidden(input_ids=ids)
        with stack.last_mlp_only_at(scored_positions):
            found = stack.hidden(input_ids=ids)
    assert plain.shape == found.shape and rows == [40, 3]
    torch.testing.assert_close(
        found.flatten(0, 1)[scored_positions], plain.flatten(0, 1)[scored_positions]
    )
    with stack.bypass(ALL[-1]), torch.inference_mode():
        without = stack.hidden(input_ids=ids)  # elsewhere, as if it were not there
        with stack.last_mlp_only_at(
            scored_positions
        ):  # an attention is the last now, and runs everywhere
            assert torch.equal(stack.hidden(input_ids=ids), without)
    others = [place for place in range(40) if place not in scored_positions]
    torch.testing.assert_close(found.flatten(0, 1)[others], without.flatten(0, 1)[others])


def test_an_error_leaves_nothing_that_reads(stack: SublayerStack) -> None:
    with pytest.raises(IndexError), stack.last_mlp_only_at(torch.tensor([3])):
        stack.hidden(input_ids=IDS + 1000)  # no such tokens
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for b in stack.blocks for m in b.modules()
    )

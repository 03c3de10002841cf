"""Methods that make inference cheaper: what they do to a model, and their rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import profile

from trimlab.bench._limits import cache_bytes, weight_bytes
from trimlab.bench._methods._method import METHODS, load_method
from trimlab.bench._methods.mostly_mlps import mostly_mlps
from trimlab.bench._methods.sparse24 import two_of_four
from trimlab.model.shape import empty_model, shape_config
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import plugin_names
from trimlab.records.rows import read_rows

IDS = torch.arange(3, 40)[None]
# operators that make zeros and add them, and those that Gemma wraps a constant with
ZEROS = {"aten::add", "aten::empty", "aten::new_empty", "aten::new_zeros", "aten::zero_"}
CONSTANTS = {"aten::to", "aten::lift_fresh", "aten::detach_", "detach_"}


def test_every_method_has_a_title() -> None:
    assert all(load_method(name).title for name in plugin_names(METHODS))


def test_mostly_mlps_leaves_half_of_a_7b_model() -> None:
    stack = SublayerStack(empty_model(shape_config("llama-7b")))
    dropped = mostly_mlps(stack)
    kinds = [sublayer.kind for sublayer in dropped]
    assert (kinds.count("mlp"), kinds.count("attention")) == (22, 4)
    assert len(set(dropped)) == 26
    load_method("mostly_mlps").apply(stack)
    assert 0.49 < stack.layer_memory_ratio <= 0.5


def test_pairs_leave_half_of_the_blocks(tiny_model: Callable[..., Any]) -> None:
    stack = SublayerStack(tiny_model("llama"))
    load_method("pairs").apply(stack)
    assert stack.layer_memory_ratio == 0.5 and {s.block for s in stack} == {0, 2}


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_pairs_compute_what_a_model_built_so_small_computes(
    tiny_model: Callable[..., Any], family: str
) -> None:
    """The same operators as often, in prefill and with a cache; a no-op adds zeros once."""
    counts = []
    for name in ("pairs", "built"):
        stack = load_method(name).apply(SublayerStack(tiny_model(family, torch.float32)))
        with torch.inference_mode(), profile(with_flops=True) as profiled:
            cache = stack.model(input_ids=IDS, use_cache=True).past_key_values
            stack.model(input_ids=IDS[:, :1], past_key_values=cache, use_cache=True)
        events = profiled.key_averages()
        counts.append({event.key: (event.count, event.flops) for event in events})
        whole = tiny_model(family, torch.float32)
        assert cache_bytes(stack) == cache_bytes(SublayerStack(whole)) / 2  # two of four attentions
    pairs, built = counts
    different = {key for key in pairs | built if pairs.get(key) != built.get(key)}
    assert ZEROS <= different <= ZEROS | CONSTANTS
    no_ops = 2 * 2 * 2  # two passes, two blocks, two sublayers
    assert pairs["aten::new_zeros"][0] == pairs["aten::add"][0] - built["aten::add"][0] == no_ops


def test_two_of_four_are_kept() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.1, -0.2, 0.25]])
    assert two_of_four(weight).tolist() == [[0, -4, 3, 0, 0.5, 0, 0, 0.25]]


@pytest.mark.parametrize(("name", "bits", "error"), [("llm_int8", 8, 0.02), ("int4", 4, 0.15)])
def test_rounded_weights_take_less_and_compute_almost_the_same(
    tiny_model: Callable[..., Any], name: str, bits: int, error: float
) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    stack = SublayerStack(tiny_model("llama", torch.float32, **sizes))
    weights = [p for name, p in stack.model.named_parameters() if name.endswith("proj.weight")]
    entries, whole = sum(p.numel() for p in weights), weight_bytes(stack.model)
    torch.manual_seed(0)
    attention: Any = stack.blocks[0].self_attn
    inputs = torch.randn(8, 64)
    with torch.inference_mode():
        before = attention.q_proj(inputs)
        load_method(name).apply(stack)
        saved = whole - weight_bytes(stack.model)
        after = attention.q_proj(inputs)
        stack.model(input_ids=IDS)  # all layers fit together
    assert (after - before).norm() < error * before.norm()
    # a scale for each row or for each 64 entries is stored, too
    assert 0.9 * entries * (32 - bits) / 8 < saved < entries * (32 - bits) / 8


def test_methods_take_turns_and_have_a_row_each(
    trimlab_bench: Callable[..., int], tiny_options: Callable[[str], list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "bench.jsonl"
    methods = ("--methods", "[pairs,mostly_mlps]", "--against", "full")
    assert trimlab_bench("decode", *tiny_options("decode"), *methods, "--out", out) == 0
    pairs, mlps = read_rows(out)
    # the method of earlier records is named in none of them
    assert [row["cell"].get("method") for row in (pairs, mlps)] == [None, "mostly_mlps"]
    assert pairs["peer_turns"] == mlps["peer_turns"] and len(pairs["ours_turns"]) == 1
    for row in (pairs, mlps):
        rates, (seconds,) = row["rates"], row["ours_turns"]
        assert rates["ours_tokens_per_second"] == pytest.approx(2 / seconds)
        assert rates["ours_ms_per_token"] == pytest.approx(1000 * seconds / 2)
        settings = row["settings"]
        assert settings["weight_bytes"] < settings["peer_weight_bytes"]
        # how far from the limit: what is read in a second, as a share of what can be
        for side, peer in (("ours", ""), ("peer", "peer_")):
            read = settings[f"{peer}bytes_per_token"] * rates[f"{side}_tokens_per_second"]
            assert rates[f"{side}_share_of_bandwidth"] == pytest.approx(read / rates["bandwidth"])
    # of three blocks, `pairs` keeps two attentions; keys and values of 2 heads of 8, in float32
    assert pairs["settings"]["peer_cache_bytes_per_token"] == 3 * 2 * 2 * 8 * 4
    assert pairs["settings"]["cache_bytes_per_token"] == 2 * 2 * 2 * 8 * 4
    # the embeddings of an untied model are not read, and the cache holds 4 tokens and half of 2
    unread = 64 * 32 * 4
    read = pairs["settings"]["weight_bytes"] - unread + 5 * 2 * 2 * 2 * 8 * 4
    assert pairs["settings"]["bytes_per_token"] == pytest.approx(read)

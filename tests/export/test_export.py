"""Packing and stock folders: every family, every tier, in a process that never sees trimlab."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from trimlab.errors import InputError
from trimlab.export import hf
from trimlab.export._format import load_format
from trimlab.export._packing import pack, packed_state, tier_of
from trimlab.export.hf import save_packed
from trimlab.model.family import FAMILIES
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names

ALL = [Sublayer(block, kind) for block in range(4) for kind in ("attention", "mlp")]

# what is dropped, and the tier that is left (sequential blocks, parallel blocks)
DROPS: dict[str, tuple[list[str], str, str]] = {
    "nothing": ([], "T1", "T1"),
    "a block": (["1.attention", "1.mlp"], "T1", "T1"),
    "an MLP and the next attention": (["1.mlp", "2.attention"], "T1", "T2"),
    "the first attention": (["0.attention"], "T2", "T2"),
    "the last MLP": (["3.mlp"], "T2", "T2"),
    "all but one attention": ([str(s) for s in ALL if s != ALL[2]], "T2", "T2"),
    "all but one MLP": ([str(s) for s in ALL if s != ALL[5]], "T2", "T2"),
}

LOAD = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = torch.load(folder / "expected.pt", weights_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
    with torch.no_grad():
        for cached in (True, False):
            first = model(expected["ids"][:, :9], use_cache=True)
            cache = first.past_key_values
            if cached:
                rest = model(expected["ids"][:, 9:], past_key_values=cache)
                logits = torch.cat([first.logits, rest.logits], 1)
            else:
                logits = model(expected["ids"], use_cache=False).logits
            difference = (logits - expected["logits"]).abs().max().item()
            assert difference < expected["tolerance"], (folder.name, cached, difference)
assert not [name for name in sys.modules if name.startswith("trimlab")]
"""


def test_exports_load_without_trimlab_and_give_the_same_logits(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    ids = torch.arange(3, 23)[None] % 61 + 3
    for family, (name, (dropped, sequential, parallel)) in itertools.product(
        plugin_names(FAMILIES), DROPS.items()
    ):
        stack = SublayerStack(tiny_model(family))
        stack.drop(*map(Sublayer.parse, dropped))
        folder = tmp_path / f"{family}-{name.replace(' ', '-')}"
        export = save_packed(stack, tiny_tokenizer(), folder / "model")
        assert export.tier == (parallel if stack.parallel else sequential), folder.name
        assert export.blocks == len(pack(stack))
        eager = stack.model.config._attn_implementation == "eager"  # softmax in float32
        with torch.no_grad():
            logits = stack.model(ids, use_cache=False).logits
        expected = {"ids": ids, "logits": logits, "tolerance": 1e-6 if eager else 1e-12}
        torch.save(expected, folder / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@settings(max_examples=60, deadline=None)
@given(
    dropped=st.sets(st.sampled_from(ALL), max_size=7), family=st.sampled_from(["llama", "gpt_neox"])
)
def test_packing_keeps_every_sublayer_once_and_in_order(
    dropped: set[Sublayer], family: str, tiny_model: Any
) -> None:
    stack = SublayerStack(tiny_model(family))
    stack.drop(*dropped)
    blocks = pack(stack)
    assert [s for block in blocks for s in block if s is not None] == list(stack)
    for attention, mlp in blocks:
        if stack.parallel and attention is not None and mlp is not None:
            assert attention.block == mlp.block
    # a lone attention is never followed by a lone MLP that could have joined it
    for (_, first_mlp), (next_attention, _) in itertools.pairwise(blocks):
        if not stack.parallel:
            assert first_mlp is not None or next_attention is not None
    assert (tier_of(blocks) == "T1") == all(None not in block for block in blocks)


def test_room_counts_zeros_and_the_copy_that_compression_makes(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    stack = SublayerStack(tiny_model("llama", torch.float32))
    stack.drop(Sublayer(1, "attention"), Sublayer(3, "mlp"))
    folder = save_packed(stack, tiny_tokenizer(), tmp_path / "model").folder
    written = sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    assert load_format("hf").room(stack, torch.bfloat16, None) == 2 * written
    assert load_format("gguf").room(stack, torch.float32, "q8_0") == 5 * written
    # nothing is dead in a graph
    kept = stack.model.num_parameters()
    assert kept < written
    assert load_format("onnx").room(stack, torch.float32, "float32") == 4 * kept


def test_dead_sublayers_are_zero_and_kept_ones_are_not_copied(tiny_model: Any) -> None:
    stack = SublayerStack(tiny_model("opt"))
    stack.drop(Sublayer(0, "attention"))
    state = packed_state(stack, pack(stack))
    dead = [t for name, t in state.items() if ".layers.0.self_attn" in name]
    assert dead and not any(bool(t.any()) for t in dead)  # weights, biases and norm
    name = "model.decoder.layers.1.fc1.weight"
    assert state[name].data_ptr() == stack.model.state_dict()[name].data_ptr()


@pytest.mark.parametrize("taken", ["folder", "file"])
def test_what_is_no_model_is_never_replaced(
    taken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Any,
    tiny_tokenizer: Any,
) -> None:
    stack, place = SublayerStack(tiny_model("llama")), tmp_path / "thesis"
    if taken == "folder":
        place.mkdir()
        (place / "chapter.tex").write_text("years of work")
        monkeypatch.chdir(place)
    else:
        place.write_text("years of work")
    for name in (place, ".") if taken == "folder" else (place,):
        with pytest.raises(InputError, match="holds no model"):
            save_packed(stack, tiny_tokenizer(), name)
    left = place / "chapter.tex" if taken == "folder" else place
    assert left.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def spoil_exports(monkeypatch: pytest.MonkeyPatch, factor: float = 1.01) -> None:
    """Changes the first weight of every export that is reloaded."""
    load = hf.load_export

    def spoiled(*args: Any) -> Any:
        model = load(*args)
        with torch.no_grad():
            next(model.parameters()).mul_(factor)
        return model

    monkeypatch.setattr(hf, "load_export", spoiled)


def test_an_export_that_differs_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    stack = SublayerStack(tiny_model("llama"))
    good = save_packed(stack, tiny_tokenizer(), tmp_path / "model")
    load = hf.load_export
    spoil_exports(monkeypatch)
    stack.drop(Sublayer(0, "mlp"))
    with pytest.raises(RuntimeError, match="logits differ"):
        save_packed(stack, tiny_tokenizer(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert load(good.folder, torch.float64).config.num_hidden_layers == 4  # the earlier export


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_an_export_in_another_type_is_measured_as_it_is_written(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any, family: str, dtype: torch.dtype
) -> None:
    stack = SublayerStack(tiny_model(family, torch.float32))
    stack.drop(Sublayer(1, "attention"), Sublayer(2, "mlp"))
    before = {name: weight.clone() for name, weight in stack.model.state_dict().items()}
    export = save_packed(stack, tiny_tokenizer(), tmp_path / "model", dtype)
    state = stack.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in before.items())
    assert export.dtype == str(dtype).removeprefix("torch.")
    # the same weights, rounded: what is left is the order of summation
    assert export.logit_difference < 1e-5
    ids = torch.arange(3, 23)[None]
    stock = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert stock.dtype == dtype
    with torch.no_grad():
        reloaded = hf.load_export(export.folder, dtype)
        assert torch.equal(stock(ids).logits, reloaded(ids).logits)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_a_model_in_bfloat16_is_exported_and_a_wrong_weight_found(
    family: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Any,
    tiny_tokenizer: Any,
) -> None:
    stack = SublayerStack(tiny_model(family, torch.bfloat16))
    stack.drop(Sublayer(1, "attention"), Sublayer(2, "mlp"))
    export = save_packed(stack, tiny_tokenizer(), tmp_path / "model")
    assert export.dtype == "bfloat16" and export.logit_difference < 0.1
    spoil_exports(monkeypatch, -3)  # a norm behind it undoes a positive factor
    with pytest.raises(RuntimeError, match="logits differ"):
        save_packed(stack, tiny_tokenizer(), tmp_path / "model")


def test_a_wrong_weight_in_an_export_of_another_type_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    spoil_exports(monkeypatch)
    stack = SublayerStack(tiny_model("llama", torch.float32))
    with pytest.raises(RuntimeError, match="logits differ"):
        save_packed(stack, tiny_tokenizer(), tmp_path / "model", torch.bfloat16)

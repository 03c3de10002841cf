"""The contract of every baseline, and the numbers of those that are trimlab's own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import trimlab
from baselines import awq
from baselines._blocks import grams_of, text_batches
from baselines._narrow import best
from baselines.billm import (
    BiLLM,
    binarise,
    binary,
    break_point,
    packed_bytes,
    residual,
    salient_columns,
)
from baselines.fasp import FASP, importance, restore
from baselines.llm_pruner import LLMPruner, channel_importance, head_importance
from baselines.llm_streamline import LLMStreamline, similarities
from baselines.sparsegpt import SparseGPT, sparsify
from trimlab.baseline import (
    Baseline,
    baseline_class,
    baseline_docs,
    baseline_names,
    calibration_tokens,
    write_compressed,
)
from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.evaluation.answers import answer
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sizes import dense_sizes, stored_sizes
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.forward_cache import cache_forward

# of 8 to 23 tokens, within the vocabulary of the tiny models
TEXTS = [[1 + (7 * i + 5 * j) % 60 for j in range(8 + i % 16)] for i in range(24)]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_key_value_heads": 4,
}  # as libraries want it
OPTIONS = {"gptq": {"group_size": 32}, "awq": {"group_size": 32}}
SMALL = {"calibration_rows": 8, "dev_rows": 8}
OWN = ("billm", "fasp", "llm_pruner", "llm_streamline", "sparsegpt")


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny_folder) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("wide"), "llama", **SIZES)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([TEXTS[3]]), use_cache=False).logits.float()  # (1, T, V)


def compress(baseline: Baseline, folder: Path, target: Path):
    """What is stored, and the model as it is loaded again."""
    stored = write_compressed(baseline, str(folder), TEXTS, target, load_model(str(folder))[1])
    return stored, baseline.load(target)


# ---- the contract -------------------------------------------------------------------------------


def test_every_file_says_what_it_is():
    docs = baseline_docs()
    assert list(docs) == baseline_names() and set(OWN) < set(docs)
    for name, doc in docs.items():
        assert "arXiv" in doc, f"{name} does not say where it is from"
        assert baseline_class(name).title


@pytest.mark.parametrize("name", baseline_names())
def test_what_is_written_is_smaller_or_sparser_and_loads(name, folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    baseline = baseline_class(name)(**OPTIONS.get(name, {}))
    stored, smaller = compress(baseline, folder, tmp_path / "smaller")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    dense = dense_sizes(SublayerStack(load_model(str(folder))[0]))
    assert stored.layers < 0.8 * dense.layers or stored.zeros > 0.4
    assert stored == baseline.stored(tmp_path / "smaller")
    original, found = logits(load_model(str(folder))[0]), logits(smaller)
    assert torch.isfinite(found).all() and found.shape == original.shape
    stock = logits(load_model(str(tmp_path / "smaller"))[0])  # what `trimlab eval` does
    assert torch.corrcoef(torch.stack([stock.flatten(), found.flatten()]))[0, 1] > 0.99
    if not baseline.before_training:  # another structure gives anything before it is trained
        agreement = torch.corrcoef(torch.stack([original.flatten(), found.flatten()]))[0, 1]
        # libraries keep every weight in four or eight bits; random weights have no spare ones
        least = 0.3 if stored.zeros > 0.4 else 0.2
        assert agreement > (0.8 if baseline.library else least)


@pytest.mark.parametrize("name", OWN)
def test_the_same_texts_give_the_same_weights(name, folder, tmp_path):
    for target in ("one", "two"):
        compress(baseline_class(name)(), folder, tmp_path / target)
    one, two = (load_file(tmp_path / target / "model.safetensors") for target in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["llm_int8", *OWN])
def test_a_method_computes_in_the_type_that_is_asked_for(name, folder, tmp_path):
    placement, method = Placement(torch.device("cpu"), torch.bfloat16), baseline_class(name)
    tokenizer = load_model(str(folder))[1]
    write_compressed(
        method(), str(folder), TEXTS, tmp_path / "half", tokenizer, placement=placement
    )
    smaller = method().load(tmp_path / "half", placement)
    assert smaller.dtype == torch.bfloat16
    _, exact = compress(method(), folder, tmp_path / "whole")
    agreement = torch.corrcoef(torch.stack([logits(smaller).flatten(), logits(exact).flatten()]))
    # LLM-Pruner keeps other heads where two are as good as equal
    assert agreement[0, 1] > (0.7 if method.before_training else 0.8)


def test_weights_of_bfloat16_are_scaled_and_sparse_as_in_float32(folder):
    """Sums over the inputs and the corrections are in float32."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        stack = SublayerStack(load_model(str(folder), dtype=dtype)[0])
        block = stack.blocks[0]
        with torch.no_grad(), grams_of(block) as grams:
            for batch in text_batches(TEXTS):
                cache_forward(stack, batch)
        layer, gram = next(iter(grams.items()))
        weight = layer.weight.detach()
        assert gram.dtype == torch.float32
        found[dtype] = sparsify(weight, gram, 2, 4), awq.search([weight], gram, 4, 32)
    (sparse, scales), (other_sparse, other_scales) = found.values()
    assert ((sparse == 0) == (other_sparse == 0)).float().mean() > 0.95
    assert torch.corrcoef(torch.stack([scales, other_scales]))[0, 1] > 0.9


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3", "opt"])
def test_sparsegpt_knows_every_family(family, tiny_folder, tmp_path):
    stored, _ = compress(SparseGPT(), tiny_folder(tmp_path, family), tmp_path / "sparse")
    assert stored.zeros >= 0.5


@pytest.mark.parametrize("family", ["gemma3_text", "qwen2", "mistral"])
@pytest.mark.parametrize("heads", [1, 2])
def test_a_pruned_model_is_the_plain_one_without_what_went(family, heads, tiny_folder, tmp_path):
    """Zeroed columns of o_proj and down_proj do what removed heads and channels do."""
    folder = tiny_folder(tmp_path, family, num_key_value_heads=heads)
    _, smaller = compress(LLMPruner(0.5), folder, tmp_path / "narrow")
    wide, _ = load_model(str(folder))
    for text in TEXTS[:10]:
        ids = torch.tensor([text])
        wide(ids, labels=ids, use_cache=False).loss.backward()
    groups = heads if heads > 1 else wide.config.num_attention_heads
    kept = smaller.config.num_attention_heads * groups // wide.config.num_attention_heads
    each = smaller.config.head_dim * wide.config.num_attention_heads // groups
    with torch.no_grad():
        blocks: list[Any] = SublayerStack(wide).blocks
        for block in blocks:
            channels = best(channel_importance(block.mlp), smaller.config.intermediate_size)
            gone = torch.ones(wide.config.intermediate_size, dtype=torch.bool)
            gone[channels] = False
            block.mlp.down_proj.weight[:, gone] = 0
            stays = best(head_importance(block.self_attn, groups, heads > 1), kept)
            for group in set(range(groups)) - set(stays.tolist()):
                block.self_attn.o_proj.weight[:, group * each : (group + 1) * each] = 0
    assert 0 < kept < groups
    torch.testing.assert_close(logits(smaller), logits(wide), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [0.8, 0.5])
def test_no_more_is_left_than_was_asked_for(ratio, folder, tmp_path):
    stored, _ = compress(LLMPruner(ratio), folder, tmp_path / "narrow")
    dense = dense_sizes(SublayerStack(load_model(str(folder))[0]))
    assert ratio - 0.05 < stored.layers / dense.layers <= ratio


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_layers_that_do_not_fit_into_groups_are_refused(name, folder):
    with pytest.raises(InputError, match="multiple of 128 inputs"):
        baseline_class(name)().check(SublayerStack(load_model(str(folder))[0]))


def test_a_family_without_its_layers_is_refused(tiny_folder, tmp_path):
    folder = tiny_folder(tmp_path, "opt")
    with pytest.raises(InputError, match="opt has others"):
        compress(LLMPruner(), folder, tmp_path / "narrow")
    assert not (tmp_path / "narrow").exists() and not list(tmp_path.glob(".narrow*"))


def test_nothing_else_is_overwritten(folder, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        compress(SparseGPT(), folder, tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_the_model_itself_is_not_overwritten(folder):
    with pytest.raises(InputError, match="the model itself"):
        compress(SparseGPT(), folder, folder)
    assert (folder / "model.safetensors").exists()


def test_texts_are_whole(folder, root):
    """A training item is encoded without its last token; a text has it."""
    _, tokenizer = load_model(str(folder))
    data = DomainData(tokenizer, "jsonl", root, **SMALL)
    items = data.train_items()
    assert data.rows is not None
    wanted = [tokenizer(i.context + i.choices[i.gold])["input_ids"] for i in data.rows.train]
    assert [list(text) for text in calibration_tokens(items)] == wanted


def test_int8_answers_the_same_with_workers(folder, root, tmp_path):
    """Replicas of the model share its scales, whichever runs first.

    One item at a time: what counts as an outlier depends on what is computed together.
    """
    _, smaller = compress(baseline_class("llm_int8")(), folder, tmp_path / "int8")
    data = DomainData(load_model(str(folder))[1], "jsonl", root, eval_tokens=1, **SMALL)
    data.setup()
    assert data.rows is not None
    batches = data.evaluation_batches(data.rows.test)
    found = {}
    for threads in (2, 1):
        torch.set_num_threads(threads)
        found[threads] = answer(SublayerStack(smaller), batches, full=True).likelihoods
    torch.testing.assert_close(found[2], found[1], rtol=1e-3, atol=1e-3)


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(InputError, match="there are .*sparsegpt"):
        baseline_class("nosuch")


# ---- sizes --------------------------------------------------------------------------------------


def test_sizes_by_hand(tiny_folder, tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    state = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    blocks = [n for n in state if n.startswith("model.layers.")]
    before = stored_sizes(folder)
    assert before.layers == 2 * sum(state[n].numel() for n in blocks)
    assert before.model == 2 * sum(tensor.numel() for tensor in state.values())
    stack = SublayerStack(load_model(str(folder))[0])
    assert (dense_sizes(stack).layers, dense_sizes(stack).model) == (before.layers, before.model)
    state[name] = torch.zeros(state[name].shape, dtype=torch.int8)  # a byte in place of two
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert before.layers - stored_sizes(folder).layers == state[name].numel()


# ---- SparseGPT ----------------------------------------------------------------------------------


def reference_sparsify(weight, hessian, n, m):
    """Optimal brain surgeon as it is written: the inverse anew for the columns that are free."""
    left = weight.clone()
    for j in range(weight.shape[1]):
        inverses = [torch.linalg.inv(hessian[k:, k:]) for k in range(j, weight.shape[1])]
        if j % m == 0:
            costs = torch.stack(
                [left[:, j + k].square() / inverses[k][0, 0] for k in range(m)], dim=1
            )
            dropped = costs.argsort(dim=1)[:, :n] + j
        for row in range(len(left)):
            if j in dropped[row]:
                left[row, j:] -= left[row, j] / inverses[0][0, 0] * inverses[0][0]
                left[row, j] = 0
    return left


@given(seed=st.integers(0, 10**6), columns=st.sampled_from([4, 8, 12]))
def test_sparsify_is_optimal_brain_surgeon(seed, columns):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    inputs = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    gram = inputs.T @ inputs
    found = sparsify(weight, gram, 2, 4, damp=0.01, columns=columns)
    hessian = gram + 0.01 * gram.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(found, reference_sparsify(weight, hessian, 2, 4))
    assert ((found == 0).view(5, 3, 4).sum(-1) == 2).all()


def test_independent_inputs_lose_the_smallest_weights():
    weight = torch.tensor([[3.0, -1.0, 2.0, 0.5], [0.1, 4.0, -0.2, -5.0]])
    found = sparsify(weight, torch.eye(4), 2, 4, columns=4)
    assert found.tolist() == [[3.0, 0.0, 2.0, 0.0], [0.0, 4.0, 0.0, -5.0]]


def test_a_copy_of_an_input_takes_over_its_weight():
    inputs = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = inputs[:, [0, 0, 1, 1]]  # two pairs of equal inputs
    weight = torch.tensor([[1.0, 2.0, 3.0, 5.0]], dtype=torch.float64)
    found = sparsify(weight, inputs.T @ inputs, 1, 2, damp=1e-9, columns=2)
    torch.testing.assert_close(found.sum(), weight.sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(inputs @ found.T, inputs @ weight.T, rtol=1e-6, atol=1e-6)


def test_it_loses_less_than_the_smallest_weights_would(folder):
    stack = SublayerStack(load_model(str(folder))[0])
    block = stack.blocks[0]
    with torch.no_grad(), grams_of(block) as grams:
        for batch in text_batches(TEXTS):
            cache_forward(stack, batch)
    for layer, gram in grams.items():
        sparse = sparsify(layer.weight.detach(), gram, 2, 4)
        groups = layer.weight.detach().view(len(layer.weight), -1, 4)
        smallest = groups.abs().argsort(-1)[..., :2]
        rounded = groups.scatter(-1, smallest, 0.0).view_as(sparse)
        ours, theirs = (
            torch.trace((w - layer.weight) @ gram @ (w - layer.weight).T) for w in (sparse, rounded)
        )
        assert ours < theirs


def test_texts_of_one_length_share_a_batch_and_none_is_padded():
    found = text_batches(TEXTS, max_tokens=32)
    assert sum(map(len, found)) == len(TEXTS)
    assert all(batch.token_mask.all() for batch in found)
    assert all(batch.input_ids.numel() <= 32 or len(batch) == 1 for batch in found)
    assert sorted(map(tuple, TEXTS)) == sorted(
        tuple(row) for batch in found for row in batch.input_ids.tolist()
    )


# ---- LLM-Pruner ---------------------------------------------------------------------------------


def test_importance_by_hand():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj = nn.Linear(1, 2, bias=False)
            self.up_proj = nn.Linear(1, 2, bias=False)
            self.down_proj = nn.Linear(2, 1, bias=False)

    mlp = Gated()
    for layer, weights, gradients in (
        (mlp.gate_proj, [[1.0], [2.0]], [[-3.0], [0.5]]),  # 3 and 1
        (mlp.up_proj, [[2.0], [1.0]], [[1.0], [-4.0]]),  # 2 and 4
        (mlp.down_proj, [[1.0, -2.0]], [[0.5, 3.0]]),  # 0.5 and 6
    ):
        layer.weight.data = torch.tensor(weights)
        layer.weight.grad = torch.tensor(gradients)
    assert channel_importance(mlp).tolist() == [5.5, 11.0]


# ---- LLM-Streamline -----------------------------------------------------------------------------


def test_blocks_that_do_nothing_go_first(folder, tmp_path):
    idle, tokenizer = load_model(str(folder))
    with torch.no_grad():
        for index in (1, 2):
            idle.model.layers[index].self_attn.o_proj.weight.zero_()
            idle.model.layers[index].mlp.down_proj.weight.zero_()
    idle.save_pretrained(tmp_path / "idle")
    tokenizer.save_pretrained(tmp_path / "idle")
    _, smaller = compress(LLMStreamline(0.75), tmp_path / "idle", tmp_path / "short")
    assert smaller.config.num_hidden_layers == 3
    torch.testing.assert_close(logits(smaller), logits(idle), rtol=1e-4, atol=1e-4)


def test_the_similarity_of_runs_by_hand():
    turned = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    states = turned[:, None, None, :]  # (L + 1, 1, 1, 2)
    root = 0.5**0.5
    assert similarities(states, 1).tolist() == pytest.approx([root, root, 1, 0])
    assert similarities(states, 2).tolist() == pytest.approx([0, root, 0])


def test_the_replacement_is_trained_to_do_what_the_run_did(folder, tmp_path):
    original = logits(load_model(str(folder))[0])
    errors = [
        (logits(compress(LLMStreamline(0.5, epochs, 1e-2), folder, tmp_path / str(epochs))[1]))
        .sub(original)
        .square()
        .mean()
        for epochs in (0, 20)
    ]
    assert errors[1] < errors[0]


# ---- FASP ---------------------------------------------------------------------------------------


def test_restored_weights_are_those_of_least_squares():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    inputs[:, 5] = inputs[:, :2].sum(1) + 0.1 * inputs[:, 5]
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    kept, gram = torch.tensor([0, 1, 4]), inputs.T @ inputs
    found = restore(weight, gram, kept, damp=1e-12)
    wanted = np.linalg.lstsq(inputs[:, kept].numpy(), (inputs @ weight.T).numpy(), rcond=None)[0]
    np.testing.assert_allclose(found[:, kept].numpy(), wanted.T, rtol=1e-8)
    assert (found[:, [2, 3, 5]] == 0).all()
    # nothing removed, nothing changed, however large the ridge term
    torch.testing.assert_close(restore(weight, gram, torch.arange(6), damp=1.0), weight)


def test_columns_count_by_weights_and_inputs():
    weight = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -0.5]])
    gram = torch.diag(torch.tensor([4.0, 1.0, 100.0]))  # inputs of norms 2, 1 and 10
    assert importance(weight, gram).tolist() == [8.0, 2.0, 10.0]


def test_what_others_can_do_is_pruned_without_loss(folder, tmp_path):
    """Half of the channels and heads repeat what others compute, into smaller weights."""
    twice, tokenizer = load_model(str(folder))
    blocks: list[Any] = SublayerStack(twice).blocks
    with torch.no_grad():
        for block in blocks:
            attention, mlp = block.self_attn, block.mlp
            for module, names, reader in (
                (attention, ("q_proj", "k_proj", "v_proj"), attention.o_proj),
                (mlp, ("gate_proj", "up_proj"), mlp.down_proj),
            ):
                half = reader.in_features // 2
                for name in names:
                    layer = getattr(module, name)
                    layer.weight[half:] = layer.weight[:half]
                # a smaller share of the output, but one that is missed where it is not taken over
                reader.weight[:, half:] = 0.1 * reader.weight[:, half:].sign()
                reader.weight[:, :half] = reader.weight[:, :half].sign()
    twice.save_pretrained(tmp_path / "twice")
    tokenizer.save_pretrained(tmp_path / "twice")
    original = logits(twice)
    errors = {}
    for damp in (1e-5, 1e9):  # with this one, no weight is corrected
        # a little more than half: norms stay
        _, smaller = compress(FASP(0.51, damp), tmp_path / "twice", tmp_path / f"once{damp}")
        errors[damp] = float((logits(smaller) - original).norm() / original.norm())
    config = smaller.config
    assert type(smaller) is type(twice)
    assert config.num_attention_heads == config.num_key_value_heads == 2
    assert 64 <= config.intermediate_size < 70
    assert errors[1e-5] < 1e-3 < 0.1 < errors[1e9]


# ---- BiLLM --------------------------------------------------------------------------------------


def test_one_absolute_value_per_row_is_the_mean():
    weight = torch.tensor([[3.0, -1.0, 2.0], [0.0, -6.0, 0.0]])
    assert binary(weight).tolist() == [[2.0, -2.0, 2.0], [2.0, -2.0, 2.0]]
    members = torch.tensor([[True, True, False], [False, False, False]])
    assert binary(weight, members).tolist() == [[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]
    best_error = min(
        float((value * weight[0].sign() - weight[0]).square().sum())
        for value in torch.linspace(0, 4, 401)
    )
    assert (binary(weight)[0] - weight[0]).square().sum() == pytest.approx(best_error)
    two = torch.tensor([[3.0, -1.0]])
    assert torch.equal(residual(two), two)  # 2 and 1: two values take two terms


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), width=st.integers(4, 40))
def test_groups_are_the_best_of_all_that_are_tried(seed, width):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, width, generator=generator, dtype=torch.float64)
    weight[:, : width // 4] *= 3

    def columns_apart(count):
        found = torch.cat([binary(weight[:, :count]), binary(weight[:, count:])], dim=1)
        return float((found - weight).square().sum())

    def sizes_apart(point):
        small = weight.abs() <= point
        found = binary(weight, small) + binary(weight, ~small)
        return float((found - weight).square().sum())

    counts = range(1, max(1, width * 50 // 128) + 1)
    count = salient_columns(weight.abs())
    assert count in counts
    assert columns_apart(count) == pytest.approx(min(map(columns_apart, counts)))
    shares = torch.linspace(0.1, 0.9, 81, dtype=torch.float64)
    points = weight.abs().flatten().quantile(shares)
    found = sizes_apart(break_point(weight.abs()))
    assert found == pytest.approx(min(map(sizes_apart, points)))


def test_binary_weights_can_be_packed_and_are_corrected():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 48, generator=generator, dtype=torch.float64)
    inputs = torch.randn(300, 48, generator=generator, dtype=torch.float64)
    inputs[:, ::12] *= 6  # a few large features, as language models have them
    inputs = inputs @ (torch.eye(48) + 0.3 * torch.randn(48, 48, generator=generator)).double()
    gram = inputs.T @ inputs
    found, salient = binarise(weight, gram, columns=16)
    assert 3 <= salient <= 3 * 6
    for block in found.split(16, dim=1):
        assert all(len(row.abs().unique()) <= 4 for row in block)  # two of each kind of column
    alone, _ = binarise(weight, torch.eye(48, dtype=torch.float64), columns=16)  # no correction

    def error(approximate):
        return float((inputs @ (approximate - weight).T).square().sum())

    assert error(found) < 0.8 * error(alone)
    assert error(found) < 0.5 * error(torch.cat([binary(b) for b in weight.split(16, 1)], 1))


def test_one_bit_costs_what_is_stored(folder, tmp_path):
    assert packed_bytes(3, 16, columns=8) == (2 * 3 * 16 + 16) / 8 + 2 * 3 * 4 * 2
    baseline = BiLLM(columns=32)
    stored, _ = compress(baseline, folder, tmp_path / "binary")
    norms = 2 * 64 * 2  # two in each block, in 16 bits
    shapes = [(64, 64)] * 4 + [(128, 64)] * 2 + [(64, 128)]
    block = norms + sum(packed_bytes(*shape, columns=32) for shape in shapes)
    assert stored.layers == pytest.approx(4 * block)
    bits = json.loads((tmp_path / "binary" / "billm.json").read_text())
    assert 1 < bits["as_published"] < 1.4
    assert bits["stored"] == pytest.approx(2 + 4 * 16 / 32, abs=0.02)  # and one bit a column
    assert f"{bits['stored']:.2f} bits" in baseline.note(tmp_path / "binary")


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["sparsegpt", "--help"]])
def test_help_teaches(arguments, capsys):
    from trimlab.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["compress", *arguments])
    assert stop.value.code == 0
    assert "sparsegpt" in capsys.readouterr().out


def test_compress_writes_a_model_and_says_what_it_costs(folder, root, tmp_path):
    command = [sys.executable, "-m", "trimlab.cli", "compress", "sparsegpt", str(folder)]
    command += ["--data.task", "jsonl", "--data.root", str(root), "--json"]
    command += ["--out", str(tmp_path / "sparse"), "--method.n", "3", "--method.m", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    row = json.loads(line)
    assert row["smaller"]["zeros"] == pytest.approx(0.75, abs=0.01)
    assert row["original"]["layer_memory_ratio"] == row["smaller"]["layer_memory_ratio"] == 1
    assert row["original"]["n"] == row["smaller"]["n"] > 0


# ---- in a run -----------------------------------------------------------------------------------


def test_a_run_compares_and_resumes(folder, root, tmp_path):
    def run(where):
        return trimlab.trim(
            str(folder),
            "jsonl",
            where,
            recipe="paper",
            max_drops=2,
            packable=True,  # an attention and an MLP: what is written has no dead sublayer
            model={"lr": 1e-3},
            data={"root": root, "batch_size": 8, **SMALL},
            run={"compare": ["sparsegpt", "llm_streamline"], "speed": False},
            trainer={"accelerator": "cpu", "enable_progress_bar": False},
            r=1,
            progress=False,
        )

    summary = run(tmp_path / "run")
    pruned, sparse = summary["compared"]["llm_streamline"], summary["compared"]["sparsegpt"]
    assert [row["of"] for row in pruned] == ["untrimmed"]
    assert [row["of"] for row in sparse] == ["fine_tuned"]
    fine_tuned = summary["fine_tuned"]
    assert pruned[0]["optimizer_steps"] == fine_tuned["optimizer_steps"] > 0
    assert pruned[0]["layer_memory_ratio"] == 0.5
    assert sparse[0]["optimizer_steps"] == fine_tuned["optimizer_steps"]
    assert sparse[0]["zeros"] == pytest.approx(0.5)
    for row in (*pruned, *sparse):
        assert len(row["correct"]) == row["n"] == 24
        stack = SublayerStack(load_model(row["folder"])[0])  # what is reported is what is there
        data = DomainData(load_model(row["folder"])[1], "jsonl", root, **SMALL)
        data.setup()
        assert answer(stack, data.evaluation_batches(data.rows.test)).correct == row["correct"]

    # killed after the first baseline: what is left is done, and what was done stays
    path = tmp_path / "run" / "summary.json"
    kept = json.loads(path.read_text())
    del kept["compared"]["llm_streamline"], kept["trimmed"]
    path.write_text(json.dumps(kept))
    shutil.rmtree(tmp_path / "run" / "models" / "llm_streamline")
    again = run(tmp_path / "run")
    assert again["compared"]["sparsegpt"] == sparse
    assert again["compared"]["llm_streamline"][0]["correct"] == pruned[0]["correct"]


def test_without_a_full_depth_the_trimmed_model_is_compressed(folder, root, tmp_path):
    summary = trimlab.trim(
        str(folder),
        "jsonl",
        tmp_path / "run",
        recipe="paper",
        max_drops=2,
        packable=True,
        data={"root": root, **SMALL},
        run={"compare": ["sparsegpt"], "full_depth": False, "speed": False},
        progress=False,
    )
    (row,), trimmed = summary["compared"]["sparsegpt"], summary["models"][-1]
    assert row["of"] == "trimmed" and row["dropped"] == trimmed["dropped"] != []
    assert row["layer_memory_ratio"] == pytest.approx(trimmed["layer_memory_ratio"])


def test_a_model_that_cannot_be_pruned_is_refused_before(root, tiny_folder, tmp_path):
    with pytest.raises(InputError, match="opt has others"):
        trimlab.trim(
            str(tiny_folder(tmp_path, "opt")),
            "jsonl",
            tmp_path / "run",
            max_drops=2,
            data={"root": root, **SMALL},
            run={"compare": ["llm_pruner"]},
        )
    assert not (tmp_path / "run").exists()


def test_an_unknown_baseline_is_refused_before_anything_is_done(folder, root, tmp_path):
    with pytest.raises(InputError, match="no baseline 'nosuch'"):
        trimlab.trim(
            str(folder),
            "jsonl",
            tmp_path / "run",
            max_drops=2,
            data={"root": root, "calibration_rows": 8, "dev_rows": 8},
            run={"compare": ["nosuch"]},
        )
    assert not (tmp_path / "run").exists()


# ---- AWQ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "gemma3_text", "qwen2", "opt", "gpt_neox", "phi3"]
)
def test_scales_change_nothing_but_the_weights(family, tiny_model):
    stack = SublayerStack(tiny_model(family))
    before, weights = logits(stack.model), [p.clone() for p in stack.model.parameters()]
    awq.scale(stack, TEXTS, bits=4, group_size=16)
    changed = sum(
        not torch.equal(*pair) for pair in zip(weights, stack.model.parameters(), strict=True)
    )
    assert changed >= 4 * 4  # of every block: two norms and what reads them
    torch.testing.assert_close(logits(stack.model), before, rtol=1e-5, atol=1e-5)


def test_scaled_weights_lose_less_by_rounding():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 32, generator=generator)
    inputs = torch.randn(200, 32, generator=generator)
    inputs[:, [3, 20]] *= 30  # a few large features, as language models have them
    gram = inputs.T @ inputs

    def error(scales):
        change = awq.rounded(weight * scales, 3, 16) / scales - weight
        return float((inputs @ change.T).square().sum())

    scales = awq.search([weight], gram, bits=3, group_size=16)
    assert scales[3] > 2 * scales.median() and scales[20] > 2 * scales.median()
    assert error(scales) < 0.5 * error(torch.ones(32))


def test_what_is_packed_is_what_was_rounded(folder, tmp_path):
    """The library's rounding of the scaled model is the one that the scales were searched for."""
    _, packed = compress(awq.AWQ(group_size=32), folder, tmp_path / "packed")
    stack = SublayerStack(load_model(str(folder))[0])
    awq.scale(stack, TEXTS, bits=4, group_size=32)
    with torch.no_grad():
        blocks: list[Any] = stack.blocks
        for layer in [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)]:
            layer.weight.copy_(awq.rounded(layer.weight, 4, 32))
    original, found, wanted = (logits(m) for m in (load_model(str(folder))[0], packed, stack.model))
    # its kernels compute in bfloat16
    assert (found - wanted).norm() < 0.5 * (original - wanted).norm()


def test_rounding_by_hand():
    # steps of 1 between -1 and 2, and of 10 between 0 and 30
    weight = torch.tensor([[-1.0, 0.4, 0.6, 2.0, 0.0, 30.0, 14.0, 16.0]])
    found = awq.rounded(weight, bits=2, group_size=4)
    assert found.tolist() == [[-1.0, 0.0, 1.0, 2.0, 0.0, 30.0, 10.0, 20.0]]

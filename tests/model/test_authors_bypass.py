"""The authors' bypass: what it computes, in scans and in runs, and that it is not exported."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trimlab
from tests.runs.test_run import assert_same_run, kill_and_resume, start
from tests.scanning.test_early_stopping import both, items_of
from tests.scanning.test_scan import ALL, ITEMS, encoded
from trimlab.data.batching import collate
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.errors import InputError
from trimlab.evaluation.answers import answer, evaluate
from trimlab.evaluation.likelihoods import log_likelihoods
from trimlab.evaluation.metrics import TaskMetric
from trimlab.model.authors_bypass import use_authors_bypass
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.records.rows import read_rows
from trimlab.records.run_summary import RunSummary
from trimlab.runs.summary import print_summary
from trimlab.scanning.candidates import Granularity, candidates
from trimlab.scanning.scan import Scan, scan
from trimlab.scorers import Scorer
from trimlab.scorers.two_step import TwoStep
from trimlab.training.checkpoints import restore
from trimlab.training.module import DomainLM

FAMILIES = pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
IDS = torch.tensor([[1, 9, 20, 33, 7, 12, 40, 5, 28, 31, 6, 19]])
# a block without attention, one without MLP, one with neither; the first block among them
DROPPED = [Sublayer.parse(s) for s in ("0.attention", "1.mlp", "2.attention", "2.mlp")]


def authors(model: Any) -> SublayerStack:
    stack = SublayerStack(model)
    use_authors_bypass(stack)
    return stack


@torch.no_grad()
def plain_logits(model: Any, dropped: Sequence[Sublayer]) -> Tensor:
    """The authors' forward pass, line by line, with the modules of an untouched model."""
    stack = SublayerStack(model)
    first: list[Tensor] = []
    arguments: list[dict[str, Any]] = []
    hooks = [stack.blocks[0].register_forward_pre_hook(lambda _, args: first.append(args[0]))]
    for block in stack.blocks:
        hooks.append(
            block.get_submodule("self_attn").register_forward_pre_hook(
                lambda _, _args, kwargs: arguments.append(dict(kwargs)), with_kwargs=True
            )
        )
    model(input_ids=IDS, use_cache=False)
    for hook in hooks:
        hook.remove()

    hidden = first[0]
    for index, block in enumerate(stack.blocks):
        for kind in ("attention", "mlp"):
            sublayer = Sublayer(index, kind)
            norm, *rest = stack.modules(sublayer)
            if sublayer not in dropped:
                added = norm(hidden)
                for module in rest:
                    if module is block.self_attn:
                        added = module(**arguments[index] | {"hidden_states": added})[0]
                    else:
                        added = module(added)
                        if stack.family.mlp.core == "fc1" and module is rest[0]:
                            added = block.activation_fn(added)
                hidden = hidden + added
            elif kind == "attention":
                hidden = norm(hidden)
    return stack.head(stack.final_norm(hidden))


@FAMILIES
@pytest.mark.parametrize("dropped", [[], DROPPED[:1], DROPPED, ALL[:-1]])
def test_a_dropped_attention_normalises_the_stream(
    family: str, dropped: list[Sublayer], tiny_model: Any
) -> None:
    model = tiny_model(family)
    stack = authors(model)
    with stack.bypass(*dropped):
        bypassed = model(IDS, use_cache=False).logits
    untouched = model(IDS, use_cache=False).logits
    stack.drop(*dropped)
    expected = plain_logits(tiny_model(family), dropped)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
    torch.testing.assert_close(bypassed, expected)
    assert torch.equal(untouched, tiny_model(family)(IDS, use_cache=False).logits)
    if dropped:  # and not what the residual bypass computes
        residual = tiny_model(family)
        SublayerStack(residual).drop(*dropped)
        assert (residual(IDS, use_cache=False).logits - expected).abs().max() > 0.01


def test_only_mlps_dropped_is_the_residual_bypass(tiny_model: Any) -> None:
    mlps = [Sublayer(block, "mlp") for block in (0, 2)]
    one, other = tiny_model("llama"), tiny_model("llama")
    SublayerStack(one).drop(*mlps)
    authors(other).drop(*mlps)
    assert torch.equal(one(IDS).logits, other(IDS).logits)


# ---- scans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["sublayer", "pair", "block"])
@FAMILIES
def test_a_scan_gives_what_full_evaluations_give(
    family: str, granularity: Granularity, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    batch = collate(encoded(tiny_tokenizer()))
    for history in ([], DROPPED[:3], [DROPPED[0], DROPPED[1], Sublayer(3, "mlp")]):
        stack = authors(tiny_model(family))
        stack.drop(*history)
        for metric in ("accuracy", "exp_neg_loss"):
            found = scan(stack, [batch], granularity, metric=metric)
            assert found.accuracy and found.candidates == candidates(stack, granularity)
            for accuracy, candidate in zip(found.accuracy, found.candidates, strict=True):
                plain = authors(tiny_model(family))
                plain.drop(*history, *candidate)
                score = TaskMetric(metric)
                score.update(log_likelihoods(plain, batch), batch)
                assert accuracy == pytest.approx(score.score().value, rel=1e-6)


@FAMILIES
def test_similarity_is_that_of_the_stream_there_is(
    family: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    tokenizer = tiny_tokenizer()
    stack = authors(tiny_model(family))
    stack.drop(*DROPPED[:2])
    text = encode(tokenizer, ITEMS[0], 256, only_gold=True)  # one text: no tree
    found = scan(stack, [collate([text])], measures=("similarity",))
    mlp, block = Sublayer(0, "mlp"), stack.blocks[0]  # its block has no attention any more
    seen: list[Tensor] = []
    with torch.no_grad():
        norm = stack.modules(mlp)[0]
        norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        block.register_forward_hook(lambda *call: seen.append(call[-1]))
        stack.model(torch.tensor([text.tokens]), use_cache=False)
    before, after = (state.reshape(len(text.tokens), -1) for state in seen)
    cosine = torch.cosine_similarity(before, after, dim=-1).mean()
    assert found.similarity
    assert found.similarity[found.candidates.index((mlp,))] == pytest.approx(float(cosine))


@pytest.mark.parametrize("granularity", ["sublayer", "pair"])
def test_the_early_choice_is_that_of_a_whole_scan(
    granularity: Granularity, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    stack = authors(tiny_model("llama"))
    stack.drop(*DROPPED[:2])
    for k in (1, 3):
        whole, early = both(stack, items_of(tiny_tokenizer(), 24), TwoStep(), k, granularity)
        assert early.items and whole.accuracy and early.accuracy
        for bound, exact in zip(early.accuracy, whole.accuracy, strict=True):
            assert bound >= exact


# ---- runs ---------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "bypass": "authors",
    "packable": False,
    "scorer": "tests.model.test_authors_bypass.AttentionsFirst",
    "target_layer_memory": 0.7,
    "r": 1.0,
}


class AttentionsFirst(Scorer):
    """Attentions go before MLPs, so that a short run drops some."""

    statistics = frozenset({"accuracy"})

    def __call__(self, scan: Scan) -> list[tuple[float, ...]]:
        accuracy = scan.accuracy or []
        return [
            (float(candidate[0].kind == "mlp"), -a)
            for candidate, a in zip(scan.candidates, accuracy, strict=True)
        ]


@pytest.fixture(scope="module")
def whole(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    start(base, root, folder, save_at=[0.9], full_depth=True, **OPTIONS)
    return folder


def test_a_run_is_measured_in_memory_and_exports_nothing(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert not (whole / "models").exists()
    assert len(summary["models"]) == 2
    for row in summary["models"]:
        assert row.keys().isdisjoint(("folder", "tier", "bytes_on_disk"))
        assert "attention" in row["dropped"][0]
        assert len(row["correct"]) == row["n"] == 24
    assert summary["trimmed"] == summary["models"][-1]
    assert summary["trimmed"]["layer_memory_ratio"] <= 0.7 < summary["fine_tuned"]["n"]
    print_summary(RunSummary.from_row(summary), whole)
    shown = capsys.readouterr().out
    assert "in memory" in shown and "not exported" in shown and "trimlab eval" not in shown


def test_the_last_model_of_a_run_is_trained_and_normalises(
    whole: Path, base: Path, root: Path
) -> None:
    module = DomainLM(str(base))
    restore(module, whole / "checkpoints" / "good.ckpt")
    assert module.stack.bypass_rule == "authors"
    dropped = [s for s in module.stack.history if s.kind == "attention"]
    model, _ = load_model(str(base))
    for sublayer in dropped:  # the norm that stays was trained on, after its attention was gone
        kept = module.model.model.layers[sublayer.block].input_layernorm.weight
        assert kept.requires_grad
        assert not torch.equal(kept, model.model.layers[sublayer.block].input_layernorm.weight)
    state = torch.load(whole / "checkpoints" / "good.ckpt", weights_only=True)["state_dict"]
    assert f"model.model.layers.{dropped[0].block}.input_layernorm.weight" in state
    # what the summary says is what the restored model computes
    data = DomainData(module.tokenizer, "jsonl", root, calibration_rows=15, dev_rows=15)
    data.setup()
    assert data.rows is not None
    summary = json.loads((whole / "summary.json").read_text())
    batches = data.evaluation_batches(data.rows.test)
    assert answer(module.stack, batches).correct == summary["trimmed"]["correct"]
    point = read_rows(whole / "record.jsonl")[-1]
    assert [str(s) for s in module.stack.history] == point["history"]
    dev = evaluate(module.stack, data.evaluation_batches(data.rows.dev), "exp_neg_loss")
    other, _ = load_model(str(base))
    residual = SublayerStack(other)
    residual.drop(*module.stack.history)
    residual.model.load_state_dict(module.model.state_dict(), strict=False)
    assert dev != evaluate(residual, data.evaluation_batches(data.rows.dev), "exp_neg_loss")
    assert evaluate(module.stack, data.evaluation_batches(data.rows.dev)).value == point["dev"]


@pytest.mark.parametrize(
    "place", ["mid-scan", "in the last epoch", "between record and checkpoint"]
)
def test_a_killed_run_ends_the_same(
    place: str, whole: Path, base: Path, root: Path, tmp_path: Path
) -> None:
    def again(folder: Path) -> None:
        start(base, root, folder, save_at=[0.9], full_depth=True, **OPTIONS)

    kill_and_resume(tmp_path / "killed", place, again)
    assert_same_run(tmp_path / "killed", whole)
    assert not (tmp_path / "killed" / "models").exists()


# ---- what is refused ----------------------------------------------------------------------------


def test_it_is_not_exported(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    stack = authors(tiny_model("llama"))
    stack.drop(DROPPED[0])
    with pytest.raises(InputError, match="can't be exported"):
        trimlab.save_packed(stack, tiny_tokenizer(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_parallel_blocks_are_refused(root: Path, tmp_path: Path, tiny_folder: Any) -> None:
    neox = tiny_folder(tmp_path, "gpt_neox")
    with pytest.raises(InputError, match="not defined"):
        start(neox, root, tmp_path / "run", bypass="authors")
    assert not (tmp_path / "run").exists()


def test_a_stack_that_has_dropped_is_refused(tiny_model: Any) -> None:
    stack = SublayerStack(tiny_model("llama"))
    stack.drop(DROPPED[0])
    with pytest.raises(InputError, match="dropped sublayers already"):
        use_authors_bypass(stack)

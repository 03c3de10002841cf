"""Scoring the choices of an item in one pass gives what one plain pass per choice gives."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny import PlainScores, TinyFolder, TinyModel, TinyTokenizer
from trimlab.data.batching import collate
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.evaluation import likelihoods as scoring
from trimlab.evaluation.likelihoods import (
    choice_likelihoods,
    choice_scores,
    head_positions,
    log_likelihoods,
    model_inputs,
    tree_mask,
    winning_likelihoods,
)
from trimlab.model.family import FAMILIES
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names

ITEMS = {
    "choices of different length": Item("what is it?", (" an owl", " a", " the other one"), 1),
    "choices of one token": Item("question: 2 - 1 =?\nanswer: ", ("1", "2", "3", "9"), 0),
    "choices that merge with the context": Item("tell me about b", ("cat", "dog", "cc."), 2),
    "a space that merges": Item("answer: ", ("an owl", "the owl"), 0),
    "choices with a common start": Item("who?", (" the man", " the man in", " the mall"), 1),
    "equal choices": Item("again:", (" x", " x"), 1),
    "a context beyond the window": Item("the " * 20 + "end:", (" yes", " no"), 1),
    "continuations beyond the window": Item("so:", (" one" * 9, " two" * 7, " x"), 0),
    "plain text": Item("", ("the thin man is in",), 0),
    "no context": Item("", ("the owl", "a man", "the man"), 2),
    "one choice": Item("where?", (" here",), 0),
}

every_family = pytest.mark.parametrize("family", plugin_names(FAMILIES))


def score(
    stack: SublayerStack,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    max_length: int = 256,
) -> list[list[float]]:
    """Scores of a batch, without the scored_positions of choices that an item does not have."""
    encoded = [encode(tokenizer, item, max_length) for item in items]
    rows = log_likelihoods(stack, collate(encoded)).tolist()
    assert all(set(r[len(i.choices) :]) <= {-torch.inf} for r, i in zip(rows, items, strict=True))
    return [row[: len(item.choices)] for row, item in zip(rows, items, strict=True)]


def tolerance(model: PreTrainedModel) -> float:
    # eager attention takes its softmax in float32
    return 1e-5 if model.config._attn_implementation == "eager" else 1e-10


@pytest.mark.parametrize(
    ("family", "bos"),
    [*((family, True) for family in plugin_names(FAMILIES)), ("gemma3_text", False)],
)
def test_one_pass_gives_what_one_pass_per_choice_gives(
    family: str,
    bos: bool,
    tiny_model: TinyModel,
    tiny_tokenizer: TinyTokenizer,
    plain_scores: PlainScores,
) -> None:
    model, tokenizer, items = tiny_model(family), tiny_tokenizer(bos), list(ITEMS.values())
    stack = SublayerStack(model)
    close = {"rel": 0, "abs": tolerance(model)}
    for dropped in ([], [Sublayer(0, "attention"), Sublayer(1, "mlp"), Sublayer(2, "attention")]):
        stack.drop(*dropped)
        expected = [plain_scores(model, tokenizer, item) for item in items]
        together = score(stack, tokenizer, items)
        for name, wanted, found in zip(ITEMS, expected, together, strict=True):
            assert found == pytest.approx(wanted, **close), name
        for item, wanted in zip(items, expected, strict=True):
            assert score(stack, tokenizer, [item])[0] == pytest.approx(wanted, **close)


@every_family
def test_bf16_differs_by_its_rounding_alone(
    family: str, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, plain_scores: PlainScores
) -> None:
    """What runs on a GPU: a wrong mask or position would be off by whole units."""
    tokenizer, items = tiny_tokenizer(), list(ITEMS.values())
    exact, model = tiny_model(family), tiny_model(family).bfloat16()
    for item, found in zip(items, score(SublayerStack(model), tokenizer, items), strict=True):
        assert found == pytest.approx(plain_scores(exact, tokenizer, item), rel=0.02)


@every_family
def test_a_long_context_loses_its_oldest_tokens(
    family: str, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer, plain_scores: PlainScores
) -> None:
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    item = Item("the context is longer than it may be, so:", (" yes", " no, never", " maybe"), 2)
    longest_choice = len(tokenizer(item.choices[1])["input_ids"])  # with its BOS, which stands
    for max_length in (longest_choice, 17, 30):  # for the token that predicts the first one
        found = score(SublayerStack(model), tokenizer, [item], max_length)[0]
        wanted = plain_scores(model, tokenizer, item, max_length)
        assert found == pytest.approx(wanted, rel=0, abs=tolerance(model))
        assert wanted != pytest.approx(plain_scores(model, tokenizer, item), abs=1e-3)


@every_family
def test_a_context_beyond_the_model_loses_its_oldest_tokens(
    family: str,
    tmp_path: Path,
    tiny_folder: TinyFolder,
    plain_scores: PlainScores,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tiny_folder(tmp_path, family, torch.float64, max_position_embeddings=32)
    model, tokenizer = load_model(str(folder), dtype=torch.float64)
    item = Item("the thin man is in " * 5 + "?", (" yes", " no, never"), 0)
    (batch,) = DomainData(tokenizer, "jsonl", max_length=1000).evaluation_batches([item])
    found = log_likelihoods(SublayerStack(model), batch)[0].tolist()
    assert "maximum sequence length" not in caplog.text
    wanted = plain_scores(model, tokenizer, item, max_length=32)
    assert found == pytest.approx(wanted, rel=0, abs=tolerance(model))


@settings(max_examples=25)
@given(
    data=st.lists(
        st.tuples(
            st.text("abcthe in", max_size=30),
            st.lists(st.text("abcthe in", min_size=1, max_size=12), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=4,
    ),
    family=st.sampled_from(["gemma3_text", "gpt_neox", "mistral"]),
)
def test_any_items_in_any_batch(
    data: list[tuple[str, list[str]]],
    family: str,
    tiny_model: TinyModel,
    tiny_tokenizer: TinyTokenizer,
    plain_scores: PlainScores,
) -> None:
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    items = [Item(context, tuple(answers), 0) for context, answers in data]
    try:
        found = score(SublayerStack(model), tokenizer, items)
    except InputError:
        assume(False)  # a choice that melts into its context
        return
    for row, item in zip(found, items, strict=True):
        assert row == pytest.approx(plain_scores(model, tokenizer, item), rel=0, abs=1e-10)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_head_in_chunks_gives_the_same(
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: TinyModel,
    tiny_tokenizer: TinyTokenizer,
) -> None:
    stack, tokenizer = SublayerStack(tiny_model("gemma2")), tiny_tokenizer()
    whole = score(stack, tokenizer, list(ITEMS.values()))
    calls: list[int] = []
    head = stack.head
    monkeypatch.setattr(stack, "head", lambda h: calls.append(len(h)) or head(h))
    monkeypatch.setattr(scoring, "HEAD_ROWS", rows)
    for chunked, plain in zip(score(stack, tokenizer, list(ITEMS.values())), whole, strict=True):
        assert chunked == pytest.approx(plain, rel=0, abs=1e-12)
    assert len(calls) > 10 and max(calls) == rows


def test_the_head_runs_once_where_several_choices_are_predicted(
    monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack, rows = SublayerStack(tiny_model("llama")), []
    head = stack.head
    monkeypatch.setattr(stack, "head", lambda h: rows.append(len(h)) or head(h))
    score(stack, tiny_tokenizer(), [ITEMS["choices of one token"]])
    assert rows == [1]


@pytest.mark.parametrize("likelihoods", [choice_likelihoods, winning_likelihoods])
def test_the_head_sees_only_its_positions_of_several_models_at_once(
    likelihoods: Callable[..., Tensor], tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    """As a scan does it: each candidate's hidden states where a token is predicted."""
    tokenizer, stack = tiny_tokenizer(), SublayerStack(tiny_model("llama"))
    batch = collate([encode(tokenizer, item, 64) for item in ITEMS.values()])
    inputs = model_inputs(batch, stack.model.config, stack.model.dtype)
    hidden = [stack.hidden(**inputs)]
    with stack.bypass(Sublayer(1, "mlp")):
        hidden.append(stack.hidden(**inputs))
    positions, scored = head_positions(batch)
    assert positions.shape[1] < batch.input_ids.shape[1]
    seen = torch.cat([h[torch.arange(len(batch))[:, None], positions] for h in hidden])
    together = likelihoods(stack, seen, scored.repeated(2)).split(len(batch))
    for ours, own in zip(together, hidden, strict=True):
        torch.testing.assert_close(ours, likelihoods(stack, own, batch))


def test_choices_that_cannot_win_are_given_up_early(
    monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    items = [item for item in ITEMS.values() if item is not ITEMS["equal choices"]]
    batch = collate([encode(tiny_tokenizer(), item, 256) for item in items])
    rows = {False: 0, True: 0}
    for seed in range(20):
        stack = SublayerStack(tiny_model("gemma3_text", seed=seed))
        found = {}
        for winner_only in rows:

            def head(h: torch.Tensor, plain=stack.head, winner_only=winner_only) -> torch.Tensor:
                rows[winner_only] += len(h)
                return 4 * plain(h)  # a random model is sure of nothing: sharpen it

            with monkeypatch.context() as patch:
                patch.setattr(stack, "head", head)
                found[winner_only] = (
                    choice_scores(stack, batch, "accuracy")
                    if winner_only
                    else log_likelihoods(stack, batch)
                )
        assert torch.equal(found[True].argmax(-1), found[False].argmax(-1))
        torch.testing.assert_close(found[True].amax(-1), found[False].amax(-1), rtol=0, atol=1e-12)
        # upper bounds, and -inf where there is no choice
        assert bool((found[True] >= found[False] - 1e-12).all())
    assert rows[True] < rows[False]


def test_only_gold_is_the_right_choice_alone(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    stack, tokenizer = SublayerStack(tiny_model("qwen3")), tiny_tokenizer()
    for item in ITEMS.values():
        encoded = encode(tokenizer, item, 256, only_gold=True)
        assert (
            encoded.gold == 0
            and set(encoded.continuations) <= {0}
            and set(encoded.choice_index) == {0}
        )
        alone = log_likelihoods(stack, collate([encoded])).item()
        assert alone == pytest.approx(score(stack, tokenizer, [item])[0][item.gold], abs=1e-10)


def test_tree_mask_by_hand() -> None:
    #                      prefix  | choice 1 | choice 2 | padding
    continuations = torch.tensor([[0, 0, 1, 1, 2, -1]])
    positions = torch.tensor([[0, 1, 2, 3, 2, 0]])
    full = tree_mask(continuations, positions)
    assert full.shape == (1, 1, 6, 6)
    assert full[0, 0, :5].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
    ]
    windowed = tree_mask(continuations, positions, window=2)
    assert windowed[0, 0, :5].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
    ]
    for mask in (full, windowed):
        assert mask[0, 0, 5, 5]  # a row without a key would be NaN

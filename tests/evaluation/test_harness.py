"""lm-evaluation-harness and trimlab agree, on trimmed models too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from trimlab.data.splits import read_test_items

pytest.importorskip("lm_eval")

from trimlab import cli
from trimlab.bench._likelihoods import naive_likelihoods
from trimlab.bench.score import compare, our_likelihoods
from trimlab.data.domain import DomainData
from trimlab.data.items import Item
from trimlab.evaluation.answers import answer, evaluate, normalised_score
from trimlab.evaluation.generation import written_answers
from trimlab.evaluation.harness import harness_evaluate, harness_likelihoods, harness_model
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack

pytestmark = pytest.mark.usefixtures("no_environment_report")

ITEMS = [
    Item("the owl is in the bin:", (" yes", " no, never"), 0),
    Item("b", (" cat", " dog"), 1),
    Item("question: what is 2 - 1?\nanswer:", (" 1", " an owl", " the man"), 2),
    Item("\nwhere?", (" on the bin", " in", " on the owl", " at"), 3),
]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
def test_log_likelihoods_agree(
    family: str, batch_size: int, tmp_path: Path, tiny_folder: Any
) -> None:
    model, tokenizer = load_model(str(tiny_folder(tmp_path, family)))
    stack = SublayerStack(model)
    stack.drop(Sublayer(0, "attention"), Sublayer(2, "mlp"))
    theirs = harness_likelihoods(harness_model(model, tokenizer, batch_size), ITEMS)
    ours = our_likelihoods(stack, tokenizer, ITEMS, 64)()
    found = compare(ours, theirs)
    assert found["largest_relative_difference"] < 1e-4
    assert found["same_predictions"] == found["items"] == len(ITEMS)


@pytest.mark.parametrize("with_bos", [True, False])
def test_rows_that_begin_with_bos_agree(
    with_bos: bool, tmp_path: Path, tiny_folder: Any, tiny_tokenizer: Any
) -> None:
    folder = tiny_folder(tmp_path)
    tiny_tokenizer(with_bos).save_pretrained(folder)
    model, tokenizer = load_model(str(folder))
    items = [replace(item, context=f"<s>{item.context}") for item in ITEMS]
    theirs = harness_likelihoods(harness_model(model, tokenizer), items)
    ours = our_likelihoods(SublayerStack(model), tokenizer, items, 64)()
    for others in (theirs, naive_likelihoods(model, tokenizer, items)()):
        assert compare(ours, others)["largest_relative_difference"] < 1e-4


@pytest.mark.parametrize("pattern", ["<s> $A </s>", "$A </s>"])
def test_a_tokenizer_that_appends_eos_changes_no_number(
    pattern: str, tmp_path: Path, tiny_folder: Any, tiny_tokenizer: Any
) -> None:
    model, _ = load_model(str(tiny_folder(tmp_path)))
    ordinary, appending = tiny_tokenizer("<s>" in pattern), tiny_tokenizer()
    appending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    stack = SublayerStack(model)
    wanted = harness_likelihoods(harness_model(model, ordinary), ITEMS)
    for found in (
        our_likelihoods(stack, appending, ITEMS, 64)(),
        naive_likelihoods(model, appending, ITEMS)(),
        harness_likelihoods(harness_model(model, appending), ITEMS),
    ):
        assert compare(found, wanted)["largest_relative_difference"] < 1e-4
    written = [written_answers(stack, tokenizer, ITEMS[:2]) for tokenizer in (ordinary, appending)]
    assert written[0] == written[1]


def test_the_whole_harness_agrees(tmp_path: Path, tiny_folder: Any, letters_domain: Any) -> None:
    model, tokenizer = load_model(str(tiny_folder(tmp_path)))
    root = tmp_path / "domain"
    root.mkdir()
    data = DomainData(tokenizer, "jsonl", letters_domain(root), calibration_rows=4, dev_rows=4)
    items = read_test_items(data.task, root)
    ours = evaluate(SublayerStack(model), data.evaluation_batches(items))
    theirs = harness_evaluate(model, tokenizer, items)["acc"]
    assert theirs.value == pytest.approx(ours.value)
    assert theirs.stderr == pytest.approx(ours.stderr)
    assert theirs.n == ours.n


def test_length_normalised_accuracy_is_the_harness_s(tmp_path: Path, tiny_folder: Any) -> None:
    # choices of 1 to 23 characters, some with accents (characters are not bytes)
    items = [
        Item(f"{context} {word}:", tuple(f" {text}" for text in texts), gold)
        for context in ("the owl", "a bin", "where")
        for word in ("is", "in", "on", "at")
        for gold, texts in enumerate([["1", "an owl in the bin"], ["éé", "the man", "abcde"]])
    ]
    model, tokenizer = load_model(str(tiny_folder(tmp_path)))
    batches = DomainData(tokenizer, "jsonl").evaluation_batches(items)
    answers = answer(SublayerStack(model), batches, full=True)
    theirs, ours = harness_evaluate(model, tokenizer, items), normalised_score(answers, items)
    assert ours == pytest.approx(theirs["acc_norm"])
    assert theirs["acc"].value == pytest.approx(answers.score.value)
    assert theirs["acc"].value != theirs["acc_norm"].value  # or the length would not matter


def test_eval_with_the_harness_as_backend(
    tmp_path: Path, tiny_folder: Any, letters_domain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base, root = tiny_folder(tmp_path), tmp_path / "domain"
    root.mkdir()
    letters_domain(root)
    arguments = ["eval", str(base), "--tasks", "jsonl", "--data.root", str(root), "--json"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--backend", "lm-eval"])
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if '"acc"' in line and '"backend": "lm-eval"' in line]
    assert [line for line in lines if '"acc_norm"' in line]

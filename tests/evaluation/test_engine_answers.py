"""Answers by an engine's own log-likelihoods, beside those of the model in this program."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab.data.domain import DomainData
from trimlab.engines._engine import load_engine
from trimlab.evaluation.answers import answer
from trimlab.evaluation.engine_answers import engine_answers
from trimlab.export._format import format_names, load_format
from trimlab.model.sublayers import Sublayer, SublayerStack

QUICK = ("gguf", "hf")
DROPPED = [Sublayer(1, "attention"), Sublayer(2, "mlp")]


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=[pytest.mark.slow]) for n in format_names()],
)
def test_an_export_answers_as_the_trimmed_model(
    name: str, root: Path, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    found, tokenizer = load_format(name), tiny_tokenizer()
    engine = load_engine(found.engine)
    pytest.importorskip(engine.package)
    stack = SublayerStack(tiny_model("llama", torch.float32, head_dim=32))
    stack.drop(*DROPPED)
    export = found.write(stack, tokenizer, tmp_path / "export")
    data = DomainData(tokenizer, "jsonl", root, max_length=40, calibration_rows=4, dev_rows=4)
    data.setup()
    assert data.rows is not None
    batches = data.evaluation_batches(data.rows.test)
    with engine.load(export.folder, threads=1, dtype=torch.float32) as model:
        here, there = answer(stack, batches, full=True), engine_answers(model, batches)
        assert torch.allclose(there.likelihoods, here.likelihoods, atol=1e-3)
        assert there.score == here.score and there.correct == here.correct
        assert torch.equal(there.tokens, here.tokens)
        if name in QUICK:
            hits = "token_accuracy"
            assert engine_answers(model, batches, hits).score == answer(stack, batches, hits).score

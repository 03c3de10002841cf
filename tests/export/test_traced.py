"""Formats that hold a traced graph: KV cache, types of weights, families, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab.engines._engine import load_engine
from trimlab.errors import InputError
from trimlab.export._format import load_format
from trimlab.model.sublayers import Sublayer, SublayerStack

FORMATS = pytest.mark.parametrize("name", ["onnx", "openvino"])
# no attention in block 0, and two attentions that follow each other
DROPPED = [Sublayer(0, "attention"), Sublayer(1, "mlp"), Sublayer(3, "attention")]


@FORMATS
def test_a_model_without_attention_is_refused(name: str, tmp_path: Path, tiny_model: Any) -> None:
    pytest.importorskip(load_engine(load_format(name).engine).package)
    stack = SublayerStack(tiny_model("llama"))
    stack.drop(*[s for s in stack if s.kind == "attention"])
    with pytest.raises(InputError, match="no attention left"):
        load_format(name).check(stack)


@pytest.mark.slow
@FORMATS
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_a_graph_has_the_remaining_sublayers_alone(
    name: str, family: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    found = load_format(name)
    engine = load_engine(found.engine)
    pytest.importorskip(engine.package)
    stack = SublayerStack(tiny_model(family, torch.float32, tie_word_embeddings=True))
    stack.drop(*DROPPED)
    ids = torch.arange(3, 40)[None] % 61 + 3
    with torch.no_grad():
        expected = stack.model(ids, use_cache=False).logits
    sizes = []
    for dtype in (d for d in ("float32", "float16", "int8") if d in found.dtypes):
        folder = tmp_path / dtype
        export = found.write(stack, tiny_tokenizer(), folder, dtype)
        assert export.tier == "T3" and export.difference.logits < 1e-2
        assert (export.compressed is None) == (dtype != "int8")
        sizes.append(sum(path.stat().st_size for path in folder.glob(f"{engine.weights[:-4]}*")))
        if dtype == "float32":
            with engine.load(folder, threads=1, dtype=torch.float32) as model:
                assert torch.allclose(model.logits(ids), expected, atol=1e-3)
                # the cache starts anew with each text
                first = list(model.decode(ids[0].tolist(), 5))
                assert list(model.decode(ids[0].tolist(), 5)) == first
    assert sizes[1] < sizes[0]

"""LoRA: adapters of the trainable sublayers, in scans, after drops, and merged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import TinyFolder
from trimlab.data.batching import collate
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer
from trimlab.scanning.scan import scan
from trimlab.training.lora import adapters
from trimlab.training.module import DomainLM

ITEMS = [
    Item("the owl is in the bin:", (" yes", " no, never"), 1),
    Item("question: what is 2 - 1?\nanswer: ", ("1", "an owl", "the man"), 2),
]
TRAINABLE = [Sublayer(1, "attention"), Sublayer(2, "mlp"), Sublayer(3, "mlp")]


def adapted(base: Path, **options: Any) -> DomainLM:
    """A module whose adapters have random weights: new ones compute nothing."""
    module = DomainLM(str(base), lora_rank=4, **options).double()
    module.freeze_all_but(TRAINABLE)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module._trained():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module.eval()


def logits(module: DomainLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.model(input_ids=ids, use_cache=False).logits


def linear(module: DomainLM, name: str) -> nn.Linear:
    found = module.model.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


@pytest.mark.parametrize("family", ["llama", "opt", "phi3"])
def test_adapters_are_those_of_the_paper(
    tmp_path: Path, tiny_folder: TinyFolder, family: str
) -> None:
    """x W^T + alpha / r x A^T B^T in every linear layer of a trainable sublayer, and no other."""
    base = tiny_folder(tmp_path, family)
    plain, module = DomainLM(str(base)).double(), adapted(base, lora_alpha=12.0)
    wanted = {
        name
        for name, layer in plain.model.named_modules()
        if isinstance(layer, nn.Linear)
        and any(layer in part.modules() for s in TRAINABLE for part in plain.stack.modules(s))
    }
    assert set(adapters(module.model)) == wanted
    assert {p.numel() for p in module._trained()} == {
        size
        for name in wanted
        for layer in [linear(plain, name)]
        for size in (4 * layer.in_features, 4 * layer.out_features)
    }
    with torch.no_grad():
        for name in wanted:
            matrices = dict(module.model.get_submodule(name).named_parameters())
            a, b = matrices["lora_A.default.weight"], matrices["lora_B.default.weight"]
            linear(plain, name).weight += 12.0 / 4 * b @ a
    ids = torch.randint(3, 60, (2, 9))
    torch.testing.assert_close(logits(module, ids), logits(plain.eval(), ids))


def test_new_adapters_change_nothing(base: Path) -> None:
    plain, module = (DomainLM(str(base), lora_rank=rank).double().eval() for rank in (0, 4))
    module.freeze_all_but(TRAINABLE)
    ids = torch.randint(3, 60, (2, 9))
    assert torch.equal(logits(module, ids), logits(plain, ids))


def test_scans_see_adapters_and_a_merged_model_is_a_stock_model(base: Path, tmp_path: Path) -> None:
    module = adapted(base)
    batches = [collate([encode(module.tokenizer, item, 256) for item in ITEMS])]
    module.drop(Sublayer(2, "mlp"))  # with its adapters
    assert len(adapters(module.model)) == 4 + 3
    ids = torch.randint(3, 60, (2, 9))
    before, with_adapters = logits(module, ids), scan(module.stack, batches)
    module.merge_adapters()
    assert not adapters(module.model)
    torch.testing.assert_close(logits(module, ids), before, rtol=1e-5, atol=1e-5)
    merged = scan(module.stack, batches)
    assert with_adapters.candidates == merged.candidates
    torch.testing.assert_close(with_adapters.accuracy, merged.accuracy)
    stock = DomainLM(str(base)).double().eval()
    stock.drop(Sublayer(2, "mlp"))
    stock.model.load_state_dict(module.model.state_dict())  # the same names
    assert torch.equal(logits(stock, ids), logits(module, ids))
    module.model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": -1}, "lora_rank must be 0"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, "lora_alpha must be positive"),
        ({"lora_alpha": 8.0}, "set model.lora_rank, too"),
        ({"lora_rank": 4, "train_embeddings": True}, "train_embeddings"),
    ],
)
def test_bad_options(base: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DomainLM(str(base), **options)

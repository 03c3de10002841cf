"""The LightningDataModule: what is read, tokenised and batched, and when."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyTokenizer
from trimlab.data.batching import Batch, collate
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError


class _Counting:
    """A tokenizer that counts the texts that it is given."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self.model_max_length, self.calls = tokenizer, 256, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.calls += 1
        return self._tokenizer(text, **options)


def _same(one: Batch, two: Batch) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
    )


@pytest.fixture
def data(root: Path, tiny_tokenizer: TinyTokenizer) -> DomainData:
    return DomainData(tiny_tokenizer(), "jsonl", root, calibration_rows=8, dev_rows=12)


def test_the_batches_of_a_set_hold_its_items_with_all_choices(data: DomainData) -> None:
    data.setup()
    assert data.rows is not None
    for batches, items in (
        (list(data.val_dataloader()), data.rows.dev),
        (data.calibration_batches(), data.rows.calibration),
        (data.evaluation_batches(data.rows.test), data.rows.test),
    ):
        encoded = [encode(data.tokenizer, item, data.max_length) for item in items]
        assert sorted(i for batch in batches for i in batch.order.tolist()) == [*range(len(items))]
        for batch in batches:
            assert _same(batch, collate(encoded, batch.order.tolist()))


def test_training_items_have_the_right_choice_alone(data: DomainData) -> None:
    items = data.train_items()
    assert data.rows is not None
    assert items == [
        encode(data.tokenizer, item, data.max_length, only_gold=True) for item in data.rows.train
    ]
    batches = list(data.train_dataloader())
    assert sorted(i for batch in batches for i in batch.order.tolist()) == [*range(len(items))]


def test_any_items_make_batches_without_reading_rows(tiny_tokenizer: TinyTokenizer) -> None:
    data = DomainData(tiny_tokenizer(), "jsonl", "nowhere")
    items = [Item("who?", (" the man", " a"), 0), Item("where?", (" in", " on"), 1)]
    (batch,) = data.evaluation_batches(items)
    encoded = [encode(data.tokenizer, item, data.max_length) for item in items]
    assert _same(batch, collate(encoded, batch.order.tolist()))
    assert data.rows is None


def test_every_item_is_tokenised_once(root: Path, tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer: Any = _Counting(tiny_tokenizer())
    data = DomainData(tokenizer, "jsonl", root, calibration_rows=8, dev_rows=12)
    data.setup()
    assert data.rows is not None
    calls = tokenizer.calls
    data.setup()
    for make_batches in (data.train_dataloader, data.val_dataloader, data.calibration_batches):
        assert list(make_batches())
    data.evaluation_batches([*data.rows.test, *data.rows.dev])
    assert tokenizer.calls == calls
    data.evaluation_batches([Item("who?", (" the man", " a"), 0)])
    assert tokenizer.calls == calls + 3


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_item_that_cannot_be_scored_is_refused_at_the_start(
    split: str, tmp_path: Path, letters_domain: Any, tiny_tokenizer: TinyTokenizer
) -> None:
    root = letters_domain(tmp_path)
    path = root / f"{split}.jsonl"
    row = {"question": "long", "choices": ["x" * 300, "b"], "answer": 0}
    rows = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(row), *rows[1:]]))
    data = DomainData(
        tiny_tokenizer(), "jsonl", root, calibration_rows=20, dev_rows=20, max_length=256
    )
    with pytest.raises(InputError, match="tokens, and max_length is 256"):
        data.setup()
    assert data.rows is None


@pytest.mark.parametrize("option", ["train_rows", "dev_rows", "batch_size", "eval_tokens"])
def test_numbers_below_one_are_refused(option: str, tiny_tokenizer: TinyTokenizer) -> None:
    with pytest.raises(InputError, match=f"data.{option} must be at least 1, not 0"):
        DomainData(tiny_tokenizer(), "jsonl", **{option: 0})

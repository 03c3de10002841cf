"""The LightningDataModule: what is read, tokenised and batched, and when."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import TinyTokenizer
from trimlab.data.batching import Batch, collate
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.evaluation.answers import evaluate
from trimlab.model.sublayers import SublayerStack


class _Counting:
    """A tokenizer that counts the texts that it is given."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self.calls = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: Any) -> Any:
        self.calls += 1
        return self._tokenizer(text, **options)


def _same(one: Batch, two: Batch) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(two, field.name))
        for field in dataclasses.fields(one)
        if field.compare
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
    assert list(items) == [
        encode(data.tokenizer, item, data.max_length, only_gold=True) for item in data.rows.train
    ]
    batches = list(data.train_dataloader())
    assert sorted(i for batch in batches for i in batch.order.tolist()) == [*range(len(items))]


def test_training_items_have_all_choices_for_a_loss_that_compares_them(
    root: Path, tmp_path: Path, tiny_tokenizer: TinyTokenizer
) -> None:
    data = DomainData(
        tiny_tokenizer(), "jsonl", root, calibration_rows=8, dev_rows=12, train_eos=True
    )
    items = data.train_items(all_choices=True)
    assert data.rows is not None
    assert list(items) == [
        encode(data.tokenizer, item, data.max_length, end=2) for item in data.rows.train
    ]
    assert max(items[0].choice_index) > 0 == max(data.train_items()[0].choice_index)
    texts = _texts(_texts_domain(tmp_path, ["the owl"], ["a bin"]), tiny_tokenizer())
    with pytest.raises(InputError, match="task text has no .* other choices .* model.loss answers"):
        texts.train_items(all_choices=True)


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


def _texts_domain(folder: Path, train: list[str], test: list[str]) -> Path:
    held_out = ["ab cd", "the man in", "on the bin", "an owl", "who"]
    for name, texts in (("train", train), ("validation", held_out), ("test", test)):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(rows)
    return folder


def _texts(root: Path, tokenizer: Any, **options: Any) -> DomainData:
    return DomainData(tokenizer, "text", root, calibration_rows=2, dev_rows=3, **options)


def test_long_texts_are_read_in_windows_of_their_own_set(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer, tiny_model: Any
) -> None:
    texts = ["where is the owl? " * 3, "the thin man"]
    root, tokenizer = _texts_domain(tmp_path, ["a cat", texts[0] + "who?"], texts), tiny_tokenizer()
    data = _texts(root, tokenizer, max_length=16)
    found = data.report()
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    # the first window scores 15 tokens, each further one 14
    windows = 1 + -(-(lengths[0] - 16) // 14)
    assert lengths[0] > 32 and lengths[1] < 16 and windows > 2
    assert (found.sets["test"].items, found.sets["test"].cut) == (windows + 1, 0)
    assert found.sets["test"].longest == lengths[0]
    (note,) = [note for note in found.notes if "test" in note]
    assert note == (
        "1 of 2 test texts are longer than 16 tokens (data.max_length) and are read in "
        f"{windows} windows; a window counts as an item"
    )
    assert len(data.train_items()) > 2
    # the score, in plain Transformers: every token given the BOS and what is before it in its
    # window, which the last window has most of
    model, losses = tiny_model("llama"), list[float]()
    for text, n in zip(texts, lengths, strict=True):
        ids, done = tokenizer(text)["input_ids"], 1
        while done < n:
            stop = min(n, 16 if done == 1 else done + 14)
            window = [1, *ids[max(1, stop - 15) : stop]]
            with torch.no_grad():
                logits = model(torch.tensor([window])).logits[0]
            new = stop - done
            losses += torch.nn.functional.cross_entropy(
                logits[-new - 1 : -1], torch.tensor(window[-new:]), reduction="none"
            ).tolist()
            done = stop
    assert data.rows is not None
    score = evaluate(SublayerStack(model), data.evaluation_batches(data.rows.test), "exp_neg_loss")
    assert score.n == windows + 1
    assert score.value == pytest.approx(100 * math.exp(-sum(losses) / len(losses)))


def test_texts_of_one_token_are_skipped_and_counted(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer
) -> None:
    root = _texts_domain(tmp_path, ["a cat", "x", "z"], ["owl", "y", "the bin"])
    data = _texts(root, tiny_tokenizer(bos=False))
    assert data.report().notes == (
        "2 of 3 train texts have one token, which nothing predicts: skipped",
        "1 of 3 test texts have one token, which nothing predicts: skipped",
    )
    assert data.rows is not None
    assert data.rows.counts() == {"train": 1, "calibration": 2, "dev": 3, "test": 2}
    assert len(data.train_items()) == 1
    assert sum(map(len, data.evaluation_batches(data.rows.test))) == 2
    with_bos = _texts(root, tiny_tokenizer())
    assert with_bos.report().notes == () and len(with_bos.train_items()) == 3


def test_a_set_of_texts_without_two_tokens_is_refused(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer
) -> None:
    data = _texts(_texts_domain(tmp_path, ["x", "z"], ["owl"]), tiny_tokenizer(bos=False))
    with pytest.raises(InputError, match=r"train.jsonl:\d: no train text has two tokens"):
        data.setup()


def test_cut_items_are_counted_by_set(root: Path, tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    data = DomainData(tokenizer, "jsonl", root, calibration_rows=8, dev_rows=12, max_length=25)
    found = data.report()
    assert data.rows is not None
    for name, one in found.sets.items():
        items = getattr(data.rows, name)
        lengths = [
            max(len(tokenizer(item.context + choice)["input_ids"]) for choice in item.choices)
            for item in items
        ]
        assert (one.items, one.longest) == (len(items), max(lengths))
        # the choices of training items are not all read
        over = sum(length > 25 for length in lengths)
        assert 0 < one.cut < len(items) and (name == "train" or one.cut == over)
        assert (
            f"{one.cut} of {len(items)} {name} items were longer than 25 tokens (data.max_length) "
            "and lost their beginning"
        ) in found.notes
    assert data.notes(data.rows.test, "test") == [note for note in found.notes if "test" in note]
    assert (
        DomainData(tokenizer, "jsonl", root, calibration_rows=8, dev_rows=12, max_length=256)
        .report()
        .notes
        == ()
    )


def test_a_length_beyond_what_the_model_reads_is_said(
    root: Path, tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 128
    data = DomainData(tokenizer, "jsonl", root, calibration_rows=8, dev_rows=12, max_length=200)
    assert data.max_length == 128
    assert data.report().notes == ("the model reads 128 tokens: data.max_length is 128, not 200",)


def test_the_end_of_answers_is_trained_if_it_is_asked_for(
    root: Path, tiny_tokenizer: TinyTokenizer
) -> None:
    def items(tokenizer: Any = None, **options: Any) -> DomainData:
        tokenizer = tokenizer or tiny_tokenizer()
        return DomainData(tokenizer, "jsonl", root, calibration_rows=8, dev_rows=12, **options)

    plain, ended = items(), items(train_eos=True)
    for one, other in zip(plain.train_items(), ended.train_items(), strict=True):
        assert other.targets == (*one.targets, 2)
    assert plain.calibration_items() == ended.calibration_items()
    assert list(items(train_eos=False).train_items()) == list(plain.train_items())
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"data.train_eos: the tokenizer has no end-of-text token"):
        items(tokenizer, train_eos=True)


def test_faults_name_their_rows(
    tmp_path: Path, letters_domain: Any, tiny_tokenizer: TinyTokenizer
) -> None:
    path = letters_domain(tmp_path) / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i in range(7):
        rows[i]["choices"] = [f"{choice} {'x' * 40}" for choice in "abcde"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DomainData(
        tiny_tokenizer(), "jsonl", tmp_path, calibration_rows=8, dev_rows=12, max_length=30
    )
    with pytest.raises(InputError) as fault:
        data.setup()
    named = re.findall(r"train.jsonl:(\d+): choice", str(fault.value))
    assert len({*named} & {*"1234567"}) == 5
    assert "; and 2 more; data.bad_rows skip" in str(fault.value)


def test_items_that_cannot_be_tokenised_are_skipped_as_faulty_rows_are(
    tmp_path: Path, letters_domain: Any, tiny_tokenizer: TinyTokenizer
) -> None:
    path = letters_domain(tmp_path) / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["choices"] = [f"{choice} {'x' * 40}" for choice in "abcde"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"calibration_rows": 8, "dev_rows": 12, "max_length": 30}
    data = DomainData(tiny_tokenizer(), "jsonl", tmp_path, bad_rows="skip", **sizes)
    report = data.report()
    assert data.rows is not None and len(data.rows.train) == len(rows) - 1
    assert report.sets["train"].items == len(data.train_items()) == len(rows) - 1
    assert report.skipped == {"train": 1}
    assert any("skipped 1 train items" in note and "train.jsonl:1" in note for note in report.notes)

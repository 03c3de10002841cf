"""Whether a tokenizer and a model fit, and how long a text may be."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.model.loading import load_model


@pytest.mark.parametrize("stated", [16, 100_000])
def test_the_longest_text_is_that_of_the_model(
    stated: int, tmp_path: Path, tiny_folder: Any, tiny_tokenizer: Any
) -> None:
    folder, tokenizer = tiny_folder(tmp_path), tiny_tokenizer()
    tokenizer.model_max_length = stated
    tokenizer.save_pretrained(folder)
    _, loaded = load_model(str(folder))
    assert loaded.model_max_length == 256
    assert DomainData(loaded, "jsonl", max_length=200).max_length == 200
    assert DomainData(loaded, "jsonl", max_length=300).max_length == 256


def test_tokens_without_an_embedding_are_refused(
    tmp_path: Path, tiny_folder: Any, tiny_tokenizer: Any
) -> None:
    tokenizer = tiny_tokenizer()
    folder = tiny_folder(tmp_path, vocab_size=len(tokenizer))
    tokenizer.add_tokens([AddedToken("[more]"), AddedToken("[most]")])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        InputError, match=r"has 2 tokens without an embedding, such as '\[more\]' \(id \d+; the"
    ) as refusal:
        load_model(str(folder))
    assert "\n" not in str(refusal.value) and "resize_token_embeddings" in str(refusal.value)


def test_a_special_token_without_an_embedding_is_refused_in_a_row(
    tmp_path: Path, tiny_folder: Any, tiny_tokenizer: Any
) -> None:
    """Gemma 3: the tokenizer has one for images, and text-only models have no embedding for it."""
    tokenizer = tiny_tokenizer()
    folder = tiny_folder(tmp_path, vocab_size=len(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    _, loaded = load_model(str(folder))
    assert encode(loaded, Item("who?", (" a", " b"), 0), 99).targets
    with pytest.raises(InputError, match="rows.jsonl:3: <image> is a token that the model does"):
        encode(loaded, Item("who? <image>", (" a", " b"), 0, where="rows.jsonl:3"), 99)


def test_a_padding_token_needs_no_embedding(
    tmp_path: Path, tiny_folder: Any, tiny_tokenizer: Any
) -> None:
    tokenizer = tiny_tokenizer()
    folder = tiny_folder(tmp_path, vocab_size=len(tokenizer))
    tokenizer.add_special_tokens({"pad_token": "[pad]"})
    tokenizer.save_pretrained(folder)
    _, loaded = load_model(str(folder))
    assert loaded.pad_token == "[pad]"

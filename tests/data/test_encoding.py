"""Items to token ids."""

from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.conftest import TinyTokenizer
from trimlab.data.encoding import EncodedItem, encode
from trimlab.data.items import Item
from trimlab.errors import InputError

texts = st.text("abcthe in", max_size=30)
choices = st.lists(st.text("abcthe in", min_size=1, max_size=12), min_size=1, max_size=4)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _texts(encoded: EncodedItem, n_choices: int) -> Iterator[tuple[list[int], list[int]]]:
    """What a plain pass over each choice reads, and what it scores."""
    for k in range(n_choices):
        own = [
            token
            for token, branch in zip(encoded.tokens, encoded.continuations, strict=True)
            if branch in (0, k + 1)
        ]
        scored = [
            target
            for target, choice in zip(encoded.targets, encoded.choice_index, strict=True)
            if choice == k
        ]
        yield own, scored


def test_an_item_is_encoded_as_a_tree(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    ids = dict(tokenizer.get_vocab())
    item = encode(tokenizer, Item("ok", ("xyz", "v", "xw"), 1), max_length=256)
    assert item == EncodedItem(
        tokens=tuple(ids[t] for t in ["<s>", "o", "k", "x", "y", "x"]),  # last tokens left out
        positions=(0, 1, 2, 3, 4, 3),
        continuations=(0, 0, 0, 1, 1, 3),
        logit_index=(2, 3, 4, 2, 2, 5),
        targets=tuple(ids[t] for t in ["x", "y", "z", "v", "x", "w"]),
        choice_index=(0, 0, 0, 1, 2, 2),
        gold=1,
    )


def test_a_merge_shortens_the_prefix(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    ids = dict(tokenizer.get_vocab())
    # "ab" + "cd" is a, bc, d: the context alone has three tokens, <s> a b, so d is scored
    item = encode(tokenizer, Item("ab", ("cd", "d"), 0), max_length=256)
    assert item.tokens == tuple(ids[t] for t in ["<s>", "a", "bc", "b"])
    assert item.continuations == (0, 0, 1, 2) and item.positions == (0, 1, 2, 2)
    assert item.targets == (ids["d"], ids["d"]) and item.logit_index == (2, 3)


@given(context=texts, choices=choices, bos=st.booleans(), max_length=st.integers(2, 50))
def test_a_tree_holds_the_text_of_every_choice(
    context: str,
    choices: list[str],
    bos: bool,
    max_length: int,
    tiny_tokenizer: TinyTokenizer,
) -> None:
    """The end of `context + choice`, as the tokenizer gives it, but for the last token."""
    tokenizer = tiny_tokenizer(bos)
    try:
        encoded = encode(tokenizer, Item(context, tuple(choices), 0), max_length)
    except InputError:
        assume(False)  # a choice without tokens of its own, or longer than max_length
        return
    plain = [_ids(tokenizer, context + choice) for choice in choices]
    cut = max(0, max(map(len, plain)) - max_length)
    start = max(1, len(_ids(tokenizer, context)))
    for text, (read, scored) in zip(plain, _texts(encoded, len(choices)), strict=True):
        assert read == text[cut:-1] and scored == text[start:]


@given(context=texts, choices=choices)
def test_every_scored_token_is_predicted_by_the_token_before_it(
    context: str, choices: list[str], tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer = tiny_tokenizer()
    try:
        encoded = encode(tokenizer, Item(context, tuple(choices), 0), 256)
    except InputError:
        assume(False)
        return
    start = len(_ids(tokenizer, context))
    places = [
        place for choice in choices for place in range(len(_ids(tokenizer, context + choice)))
    ]
    scored = [place for place in places if place >= start]
    found = zip(encoded.logit_index, encoded.choice_index, scored, strict=True)
    for index, choice, place in found:
        assert encoded.positions[index] == place - 1
        assert encoded.continuations[index] in (0, choice + 1)


def test_a_long_context_loses_its_first_tokens(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    item = Item("abcdefgh", ("xyz", "v"), 0)
    whole = _ids(tokenizer, "abcdefghxyz")
    encoded = encode(tokenizer, item, max_length=6)
    assert list(encoded.tokens) == whole[-6:-1]
    assert list(encoded.targets) == [*whole[-3:], *_ids(tokenizer, "abcdefghv")[-1:]]
    assert encode(tokenizer, item, len(whole)) == encode(tokenizer, item, 256)


@pytest.mark.parametrize("bos", [True, False])
def test_every_token_of_plain_text_is_scored(bos: bool, tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer(bos)
    text = _ids(tokenizer, "the thin man")
    encoded = encode(tokenizer, Item("", ("the thin man",), 0), 256)
    # nothing predicts the first token, which is the BOS if there is one
    assert list(encoded.tokens) == text[:-1] and list(encoded.targets) == text[1:]


def test_only_gold_encodes_the_right_choice_alone(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    item = Item("what is it?", (" an owl", " a", " the other one"), 2)
    alone = encode(tokenizer, Item(item.context, (item.choices[2],), 0), 256)
    assert encode(tokenizer, item, 256, only_gold=True) == alone
    assert alone.gold == 0 and set(alone.continuations) == {0} == set(alone.choice_index)


def test_choices_that_cannot_be_scored_are_refused(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match=r"'c' adds no token to its context \.\.\.'b'"):
        encode(tokenizer, Item("b", ("c", "xx"), 0), 256)
    with pytest.raises(InputError, match="'' adds no token"):
        encode(tokenizer, Item("b", ("x", ""), 0), 256)
    too_long = Item("b", ("x", "x" * 16), 0)
    assert len(encode(tokenizer, too_long, 17).tokens) == 16
    with pytest.raises(InputError, match="has 16 tokens, and max_length is 16"):
        encode(tokenizer, too_long, 16)

"""Items to token ids."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import TinyTokenizer
from trimlab.data.encoding import EncodedItem, encode, encode_all, prompt_ids, token_ids
from trimlab.data.items import Item
from trimlab.errors import InputError

texts = st.text("abcthe in", max_size=30)
choices = st.lists(st.text("abcthe in", min_size=1, max_size=12), min_size=1, max_size=4)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return dict(tokenizer.get_vocab())[token]


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
    """The end of `context + choice` behind the BOS, but for the last token."""
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
        assert read == [*text[:bos], *text[bos + cut :]][:-1] and scored == text[start:]
    assert encoded.cut == cut and encoded.length == max(map(len, plain))


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


@pytest.mark.parametrize("bos", ["added", "in the text", "in the text alone", "none"])
def test_a_long_context_loses_its_first_tokens_behind_the_bos(
    bos: str, tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer = tiny_tokenizer(bos in ("added", "in the text"))
    context = "<s>abcdefgh" if "text" in bos else "abcdefgh"
    item = Item(context, ("xyz", "v"), 0)
    f, g, h, x, y, z, v = (_id(tokenizer, letter) for letter in "fghxyzv")
    encoded = encode(tokenizer, item, max_length=6)
    if bos == "none":
        assert encoded.tokens == (f, g, h, x, y) and encoded.cut == 4
    else:
        assert encoded.tokens == (1, g, h, x, y) and encoded.cut == 5
    assert encoded.targets == (x, y, z, v)
    whole = encode(tokenizer, item, 256)
    assert encode(tokenizer, item, encoded.length) == whole and whole.cut == 0
    # "bc" is one token
    assert encoded.length == len(whole.tokens) + 1 == (10 if bos == "none" else 11)


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


# ---- special tokens -----------------------------------------------------------------------------


ITEM = Item("the man", (" in", " on the"), 1)


@pytest.fixture(params=["<s> $A </s>", "$A </s>", "<s> $A <unk> </s>"])
def appending(request: pytest.FixtureRequest, tiny_tokenizer: TinyTokenizer) -> Any:
    """A tokenizer that appends special tokens, and the same without them."""
    front = "<s>" in request.param
    tokenizer = tiny_tokenizer(front)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=request.param,
        special_tokens=[("<s>", 1), ("</s>", 2), ("<unk>", 3)],
    )
    return tokenizer, tiny_tokenizer(front)


@pytest.mark.parametrize("only_gold", [True, False])
@pytest.mark.parametrize("max_length", [256, 7])
def test_tokens_that_the_tokenizer_appends_are_no_part_of_a_text(
    appending: Any, only_gold: bool, max_length: int
) -> None:
    tokenizer, without = appending
    found = encode(tokenizer, ITEM, max_length, only_gold)
    assert found == encode(without, ITEM, max_length, only_gold)
    text = Item("", ("the thin man",), 0)
    assert encode_all(tokenizer, text, 256) == encode_all(without, text, 256)
    assert token_ids(tokenizer, "the thin") == _ids(without, "the thin")


def test_the_end_of_an_answer_is_scored_where_it_is_asked_for(appending: Any) -> None:
    tokenizer, _ = appending
    plain, ended = (encode(tokenizer, ITEM, 256, only_gold=True, end=end) for end in (None, 2))
    assert ended.tokens == (*plain.tokens, plain.targets[-1])
    assert ended.targets == (*plain.targets, 2)
    assert ended.logit_index == (*plain.logit_index, len(plain.tokens))
    # an answer that fills the text to the last token, or ends with the token, gets none
    full = len(plain.targets) + 1
    assert encode(tokenizer, ITEM, full, only_gold=True, end=2).targets == plain.targets
    own = replace(ITEM, choices=(" in", " on the</s>"))
    assert encode(tokenizer, own, 256, only_gold=True, end=2) == ended


@pytest.mark.parametrize("text", ["<s>the man", "<s> the man", "<s>", "<s><s>the man"])
def test_a_text_that_begins_with_the_bos_gets_no_second_one(
    text: str, tiny_tokenizer: TinyTokenizer
) -> None:
    with_bos, without = tiny_tokenizer(), tiny_tokenizer(bos=False)
    assert token_ids(with_bos, text) == _ids(without, text)
    item = Item(text, (" in", " on the"), 0)
    assert encode(with_bos, item, 256) == encode(without, item, 256)
    (plain,) = encode_all(with_bos, Item("", (text + " a",), 0), 256)
    assert [*plain.tokens, plain.targets[-1]] == _ids(without, text + " a")


def test_a_prompt_is_cut_behind_its_bos(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    ids = _ids(tokenizer, "abcdefgh")
    assert prompt_ids(tokenizer, "abcdefgh", 5) == [1, *ids[-4:]]
    assert prompt_ids(tokenizer, "<s>abcdefgh", 5) == [1, *ids[-4:]]
    assert prompt_ids(tokenizer, "abcdefgh", 256) == ids
    assert prompt_ids(tokenizer, "abcdefgh", 0) == [1]
    assert prompt_ids(tiny_tokenizer(bos=False), "abcdefgh", 0) == ids[-1:]


# ---- parts of a text ----------------------------------------------------------------------------

CHAT = "u: he\na: abc\nu: in\na: vw"
TURNS = ((9, 13), (22, 24))  # "abc\n" and "vw"


def test_only_the_named_spans_are_scored(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    # " a" is a token, and has a character in the first span
    a, bc, v, w, line = (_id(tokenizer, token) for token in (" a", "bc", "v", "w", "\n"))
    found = encode(tokenizer, Item("", (CHAT,), 0, TURNS), 256)
    assert [*found.tokens, w] == _ids(tokenizer, CHAT)
    assert found.targets == (a, bc, line, v, w)
    assert [found.tokens[i + 1] for i in found.logit_index[:-1]] == [a, bc, line, v]
    # tokens behind the last span have no part in it
    assert encode(tokenizer, Item("", (CHAT + "\nu: on",), 0, TURNS), 256) == found
    # spans are counted from the start of the choice
    inside = tuple((start - 6, stop - 6) for start, stop in TURNS)
    assert encode(tokenizer, Item(CHAT[:6], (CHAT[6:],), 0, inside), 256) == found
    assert encode(tokenizer, Item("", ("<s>" + CHAT,), 0, ((12, 16), (25, 27))), 256) == found


def test_a_span_from_the_first_character_scores_what_is_predicted(
    tiny_tokenizer: TinyTokenizer,
) -> None:
    ids = _ids(tiny_tokenizer(bos=False), "the man")
    item = Item("", ("the man",), 0, ((0, 7),))
    assert list(encode(tiny_tokenizer(), item, 256).targets) == ids
    assert list(encode(tiny_tokenizer(bos=False), item, 256).targets) == ids[1:]


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_the_scored_tokens_of_a_chat_are_those_of_transformers(
    trim_offsets: bool, tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer = tiny_tokenizer()
    if trim_offsets:  # spaces are no part of a token's characters, as in GPT-2
        tokenizer.backend_tokenizer.post_processor = processors.Sequence(
            [
                tokenizer.backend_tokenizer.post_processor,
                processors.ByteLevel(trim_offsets=True),
            ]
        )
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}"
    )
    turns = ["in the bin", "abc the", "an", "the man is a"]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)
    ]
    theirs: Any = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    spans = []
    for turn in turns[1::2]:
        start = text.index(turn)
        spans.append((start, start + len(turn) + len("</s>")))
    ours = encode(tokenizer, Item("", (text,), 0, tuple(spans), ends_with_turn=True), 256)
    assert [*ours.tokens, ours.targets[-1]] == theirs["input_ids"]
    mask = [i for i, one in enumerate(theirs["assistant_masks"]) if one]
    assert [i + 1 for i in ours.logit_index] == mask


def test_a_span_without_a_token_is_refused(tiny_tokenizer: TinyTokenizer) -> None:
    with pytest.raises(InputError, match="nothing of the text that is scored makes a token"):
        encode(tiny_tokenizer(), Item("", ("abcd",), 0, ((9, 12),), "chat.jsonl:4"), 256)


def test_a_long_chat_keeps_its_last_turns(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    v, w = _id(tokenizer, "v"), _id(tokenizer, "w")
    whole = encode(tokenizer, Item("", (CHAT,), 0, TURNS), 256)
    found = encode(tokenizer, Item("", (CHAT,), 0, TURNS), 10)
    assert found.tokens == (1, *whole.tokens[-8:]) and found.targets == (v, w)
    assert found.cut == whole.length - 10


def test_the_end_of_a_chat_is_scored_behind_its_last_turn(tiny_tokenizer: TinyTokenizer) -> None:
    item = Item("", (CHAT,), 0, TURNS)
    found = encode(tiny_tokenizer(), item, 256, only_gold=True, end=2)
    assert found.targets == (*encode(tiny_tokenizer(), item, 256).targets, 2)


# ---- plain text ---------------------------------------------------------------------------------


@given(
    text=st.text("abcthe in", min_size=1, max_size=60),
    max_length=st.integers(3, 20),
    bos=st.booleans(),
)
def test_windows_score_every_token_of_a_text_once(
    text: str, max_length: int, bos: bool, tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer = tiny_tokenizer(bos)
    ids = _ids(tokenizer, text)
    windows = encode_all(tokenizer, Item("", (text,), 0), max_length)
    assert [target for window in windows for target in window.targets] == ids[1:]
    done = 1
    for window in windows:
        own = [*window.tokens, window.targets[-1]]
        done += len(window.targets)
        assert len(own) == min(max_length, len(ids))  # the last one, too, is full
        assert own[:bos] == ids[:bos] and own[bos:] == ids[done - len(own) + bos : done]
        places = [index + 1 for index in window.logit_index]
        assert places == [*range(len(own) - len(places), len(own))]  # the end of it is scored
        assert window.length == len(ids) and window.cut == 0


def test_a_text_of_one_token_has_no_window(tiny_tokenizer: TinyTokenizer) -> None:
    item = Item("", ("a",), 0, where="train.jsonl:3")
    assert encode_all(tiny_tokenizer(bos=False), item, 256) == []
    assert len(encode_all(tiny_tokenizer(), item, 256)) == 1
    with pytest.raises(InputError, match=r"train.jsonl:3: a text of one token"):
        encode(tiny_tokenizer(bos=False), item, 256)


def test_windows_without_room_are_refused(tiny_tokenizer: TinyTokenizer) -> None:
    item = Item("", ("the thin man",), 0)
    with pytest.raises(InputError, match=r"data.max_length must be at least 3, not 2"):
        encode_all(tiny_tokenizer(), item, 2)
    assert (
        len(encode_all(tiny_tokenizer(bos=False), item, 2))
        == len(_ids(tiny_tokenizer(), "the thin man")) - 2
    )


def test_messages_name_the_row(tiny_tokenizer: TinyTokenizer) -> None:
    tokenizer = tiny_tokenizer()
    item = Item("b", ("c", "xx"), 0, where="test.jsonl:7")
    with pytest.raises(InputError, match=r"^test.jsonl:7: choice 'c' adds no token"):
        encode(tokenizer, item, 256)
    with pytest.raises(InputError, match=r"^test.jsonl:7: choice 'xxxx.* has 16 tokens"):
        encode(tokenizer, replace(item, choices=("x" * 16, "y")), 16)


@pytest.mark.parametrize("items", [("who?", (" a</s>", " b</s>")), ("who?", (" a</s></s>",))])
def test_an_eos_that_a_row_ends_with_is_not_scored(
    items: tuple[str, tuple[str, ...]], tiny_tokenizer: TinyTokenizer
) -> None:
    tokenizer, (context, choices) = tiny_tokenizer(), items
    plain = tuple(choice.replace("</s>", "") for choice in choices)
    assert encode(tokenizer, Item(context, choices, 0), 99) == encode(
        tokenizer, Item(context, plain, 0), 99
    )
    trained = encode(tokenizer, Item(context, choices, 0), 99, only_gold=True, end=2)
    assert trained.targets.count(2) == 1 and trained.targets[-1] == 2


def test_an_eos_behind_a_line_break_that_is_not_scored(tiny_tokenizer: TinyTokenizer) -> None:
    """As in completions under a heading; the EOS that ends the turn of a chat is scored."""
    tokenizer = tiny_tokenizer()
    plain = encode(tokenizer, Item("who?", ("\na",), 0, scored=((1, 2),)), 99)
    ended = Item("who?", ("\na</s>",), 0, scored=((1, 6),))
    assert encode(tokenizer, ended, 99) == plain
    assert encode(tokenizer, ended, 99, end=2).targets == (*plain.targets, 2)
    turn = replace(ended, ends_with_turn=True)
    assert encode(tokenizer, turn, 99).targets == (*plain.targets, 2)

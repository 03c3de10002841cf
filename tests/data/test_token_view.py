"""Encoded items as people read them, compared with what the tokenizer says of the whole text."""

from typing import Any

from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.data.token_view import example, piece, texts


def test_the_example_is_what_the_model_sees(tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    item = Item("the\nend:", (" a", " be", " bd"), gold=1)
    found = example(tokenizer, encode(tokenizer, item, 100), "test", "f:1")
    assert [t.text for t in found.prompt] == ["<s>", "the", "\n", "e", "n", "d", ":"]
    assert [t.special for t in found.prompt] == [True, *[False] * 6]
    assert not any(t.scored for t in found.prompt)
    assert [[t.text for t in c] for c in found.choices] == [
        [" a"],
        [" ", "b", "e"],
        [" ", "b", "d"],
    ]
    assert all(t.scored for choice in found.choices for t in choice)
    assert found.gold == 1
    assert [t.id for t in (*found.prompt, *found.choices[2])] == tokenizer("the\nend: bd")[
        "input_ids"
    ]


def test_the_training_view_has_the_right_choice_alone(tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    item = Item("the end:", (" a", " be"), gold=1)
    (text,) = texts(encode(tokenizer, item, 100, only_gold=True))
    assert list(text.ids) == tokenizer("the end: be")["input_ids"]
    assert text.scored == (False,) * (len(text.ids) - 3) + (True,) * 3


def test_a_token_across_the_end_of_the_context_is_not_lost(tiny_tokenizer: Any) -> None:
    """`b` and `c` become one token in one of the texts: the shared prefix is shorter there."""
    tokenizer = tiny_tokenizer(bos=False)
    item = Item("ab", ("ce", "de"), gold=0)
    encoded = encode(tokenizer, item, 100)
    for text, choice in zip(texts(encoded), item.choices, strict=True):
        assert list(text.ids) == tokenizer(item.context + choice)["input_ids"]
    found = example(tokenizer, encoded, "test", "f:1")
    assert [[(t.text, t.scored) for t in c] for c in found.choices] == [
        [("bc", False), ("e", True)],
        [("b", False), ("d", True), ("e", True)],
    ]


def test_pieces_of_a_sentencepiece_tokenizer_keep_their_space() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "▁", "a", "▁a", "▁heart", "<0x0A>", "<0xC3>"]
    bpe = models.BPE(
        {name: i for i, name in enumerate(names)},
        [("▁", "a")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    backend = Tokenizer(bpe)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert [piece(tokenizer, i) for i in (4, 2, 5, 6)] == [" heart", "a", "\n", "<0xC3>"]

"""The reference tokenizer of GGUF files."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from trimlab.errors import InputError
from trimlab.model.gguf_tokens import PROBES, SPACE, GgufTokens, check_tokenizer


def reference(*pieces: str, user_defined: tuple[str, ...] = ()) -> GgufTokens:
    """A vocabulary: ids 0..255 bytes, then BOS, then user-defined, then pieces, best first."""
    first = 257 + len(user_defined)
    return GgufTokens(
        pieces={piece: first + i for i, piece in enumerate(pieces)},
        scores=[0.0] * first + [-float(i) for i in range(len(pieces))],
        user_defined={token: 257 + i for i, token in enumerate(user_defined)},
        byte_ids=list(range(256)),
        bos_id=256,
    )


def test_reference_merges_by_score_then_leftmost() -> None:
    tokens = reference("he", "ar", "hear", "heart", "h", "e", "a", "r", "t", "aa")
    pieces = tokens.pieces

    assert tokens.encode("heart") == [256, pieces["heart"]]
    assert tokens.encode("hart") == [256, pieces["h"], pieces["ar"], pieces["t"]]
    assert tokens.encode("aaa") == [256, pieces["aa"], pieces["a"]]


def test_reference_takes_user_defined_tokens_first_and_longest_first() -> None:
    tokens = reference("a", SPACE, SPACE + "a", user_defined=(SPACE * 2, SPACE * 3))
    two, three, a, space_a = 257, 258, tokens.pieces["a"], tokens.pieces[SPACE + "a"]

    assert tokens.encode(" a") == [256, space_a]
    assert tokens.encode("  a") == [256, two, a]
    assert tokens.encode("    a") == [256, three, space_a]
    assert tokens.encode(" " * 5) == [256, three, two]


def test_reference_falls_back_to_bytes() -> None:
    assert reference("a").encode("aé") == [256, 257, 0xC3, 0xA9]


def test_probes_straddle_the_longest_run() -> None:
    assert {f"a{c * n}heart{c * n}" for c in " \n\t" for n in (1, 2, 31, 32)} <= set(PROBES)


def test_check_wants_runs_of_spaces_as_tokens(tiny_gguf: Path) -> None:
    # As transformers builds it: merges cut 5 spaces into 2 + 3, SentencePiece into 3 + 2.
    plain = AutoTokenizer.from_pretrained(str(tiny_gguf.parent), gguf_file=tiny_gguf.name)

    with pytest.raises(InputError, match="wrong for"):
        check_tokenizer(plain, GgufTokens.read(tiny_gguf))

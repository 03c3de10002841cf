"""The reference tokenizer of GGUF files."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from trimlab.errors import InputError
from trimlab.model.gguf_tokenizers.gpt2 import ByteLevelTokens
from trimlab.model.gguf_tokenizers.llama import SPACE, SentencePieceTokens
from trimlab.model.gguf_tokens import PROBES, check_tokenizer, read_gguf_tokens


def reference(*pieces: str, user_defined: tuple[str, ...] = ()) -> SentencePieceTokens:
    """A vocabulary: ids 0..255 bytes, then BOS, then user-defined, then pieces, best first."""
    first = 257 + len(user_defined)
    return SentencePieceTokens(
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
        check_tokenizer(plain, read_gguf_tokens(tiny_gguf))


def byte_level(*merges: str) -> ByteLevelTokens:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    single = sorted({c for pair in pairs for part in pair for c in part} | set("Ġ123½Â") | {"Ċ"})
    tokens = [*single, *("".join(pair) for pair in pairs)]
    return ByteLevelTokens(
        ids={token: i for i, token in enumerate(tokens)},
        ranks={pair: i for i, pair in enumerate(pairs)},
    )


def test_byte_level_reference_merges_the_earliest_first_and_within_words() -> None:
    tokens = byte_level("h e", "a r", "he ar", "hear t", "Ġ he", "Ġ Ġ", "1 2")
    names = {i: token for token, i in tokens.ids.items()}

    def pieces(text: str) -> list[str]:
        return [names[i] for i in tokens.encode(text)]

    assert pieces("heart hart") == ["heart", "Ġ", "h", "ar", "t"]
    assert pieces("a he") == ["a", "Ġhe"]
    # each digit is a word of its own, and the spaces before it stay together
    assert pieces("a  12") == ["a", "ĠĠ", "1", "2"]
    # of spaces before a letter the last one goes with the letter
    assert pieces("a   he") == ["a", "ĠĠ", "Ġhe"]


def test_byte_level_reference_spells_bytes_as_gpt2_does() -> None:
    tokens = byte_level("h e")

    assert tokens.encode("½") == [tokens.ids["Â"], tokens.ids["½"]]
    assert tokens.encode("\n") == [tokens.ids["Ċ"]]


def test_a_damaged_file_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    content = tiny_gguf.read_bytes()
    file = tmp_path / "damaged.gguf"
    for damaged in (b"", content[:500], content[:4] + b"\xff" * 20 + content[24:], b"GGUF"):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="is no GGUF file"):
            read_gguf_tokens(file)

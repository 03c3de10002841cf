"""Reference tokenizer of a GGUF file, to check the tokenizer that a library builds from it.

A GGUF file holds tokens, scores and types, but no code. Libraries build a tokenizer from them, and
a small error there ("▁heart" cut into "▁he" and "art") still gives plausible accuracies. The
encoder here is short and slow; on thousands of strings it agrees with the SentencePiece library
given the same tokens.

Source: SentencePiece, https://github.com/google/sentencepiece (src/bpe_model.cc); GGUF,
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (tokenizer.ggml.*).
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimlab.errors import InputError

SPACE = "\u2581"  # SentencePiece writes a space as "▁"


# strings that a tokenizer must encode correctly before it is used; runs on both sides of 31, the
# longest run of spaces, newlines or tabs that is one token of Gemma
PROBES = (
    "The heart pumps blood through the body's arteries, veins and capillaries.",
    "Question: What is the least dangerous radioactive decay?\nAnswer: alpha decay",
    "In 1905 it cost $3.14 (or 2,718.28 EUR); 100000 people = 6.022e23 - 7%...",
    "def f(x):\n    if x:\n\t\treturn  x  # two  spaces\r\n\n\n",
    "ñandú, naïve café, Größe, Привет мир, 日本語のテキスト, العربية, हिन्दी, 한국어",
    "🤗 👩\u200d🔬 e\u0301 \u00a0 \u2003 \ufb01 𓀀 \x00 a \u2581 b\u2581\u2581c",
    "hahahahahahaha aaaaaaaaaaaaa ------------- bananabanana",
    "<table><tr><td>1</td></tr></table> </a> <b>bold</b> <tab <0x0A>",
    *(f"a{c * n}heart{c * n}" for c in " \n\t" for n in (1, 2, 3, 4, 5, 30, 31, 32, 33, 62, 70)),
    *(" " * n + "heart" for n in (1, 2, 5, 33)),
    "",
)


@dataclass(frozen=True)
class GgufTokens:
    """Vocabulary and encoder of a SentencePiece-BPE model ("llama" in GGUF).

    Attributes:
        pieces: Ordinary tokens and their ids. A space in them is written "▁".
        scores: The score of every id. Of two possible merges the one with the higher score wins.
        user_defined: Tokens that are matched first and take no part in merges.
        byte_ids: The id of each of the 256 byte tokens, for characters that no piece covers.
        bos_id: The first token of every text.
    """

    pieces: dict[str, int]
    scores: list[float]
    user_defined: dict[str, int]
    byte_ids: list[int]
    bos_id: int

    @classmethod
    def read(cls, path: Path) -> "GgufTokens":
        """Reads the vocabulary out of a GGUF file.

        Args:
            path: The GGUF file, whose tokenizer must be SentencePiece-BPE with byte tokens.

        Raises:
            ValueError: The file lacks a part of the vocabulary.
        """
        from gguf import GGUFReader, TokenType  # comes with the extra "embedded"

        reader = GGUFReader(path)

        def value(key: str) -> Any:
            field = reader.get_field(f"tokenizer.ggml.{key}")
            if field is None:
                raise ValueError(f"{path} has no tokenizer.ggml.{key}")
            return field.contents()

        ids: dict[int, dict[str, int]] = {kind: {} for kind in TokenType}
        for i, (token, kind) in enumerate(zip(value("tokens"), value("token_type"), strict=True)):
            # GGUF spells user-defined tokens with real spaces, ordinary ones with "▁".
            ids[kind][token.replace(" ", SPACE)] = i
        return cls(
            pieces=ids[TokenType.NORMAL],
            scores=value("scores"),
            user_defined=ids[TokenType.USER_DEFINED],
            byte_ids=[ids[TokenType.BYTE][f"<0x{byte:02X}>"] for byte in range(256)],
            bos_id=value("bos_token_id"),
        )

    def encode(self, text: str) -> list[int]:
        """Encodes a text as SentencePiece does, without a space put in front (as Gemma).

        Args:
            text: The text. Control tokens in it ("<eos>") are ordinary characters.

        Returns:
            The ids, BOS first.
        """
        text = text.replace(" ", SPACE)
        longest = max(map(len, self.user_defined), default=0)
        ids, start, i = [self.bos_id], 0, 0
        while i < len(text):
            lengths = range(min(longest, len(text) - i), 0, -1)
            found = next((n for n in lengths if text[i : i + n] in self.user_defined), 0)
            if found:
                ids += self._merge(text[start:i]) + [self.user_defined[text[i : i + found]]]
                start = i + found
            i += found or 1
        return ids + self._merge(text[start:])

    def _merge(self, text: str) -> list[int]:
        """Joins neighbours, best score first and leftmost among equals, until nothing joins."""
        parts = list(text)
        while True:
            joins = [
                (self.scores[piece], -k)
                for k, (left, right) in enumerate(pairwise(parts))
                if (piece := self.pieces.get(left + right)) is not None
            ]
            if not joins:
                break
            k = -max(joins)[1]
            parts[k : k + 2] = [parts[k] + parts[k + 1]]
        ids = []
        for part in parts:
            known = self.pieces.get(part)
            ids += [self.byte_ids[b] for b in part.encode()] if known is None else [known]
        return ids


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, reference: GgufTokens) -> None:
    """Refuses a tokenizer that encodes any of the probe strings differently from the reference.

    Args:
        tokenizer: The tokenizer to check.
        reference: The vocabulary of the GGUF file that it was built from.

    Raises:
        InputError: The tokenizer is wrong.
    """
    for text in PROBES:
        if list(tokenizer(text)["input_ids"]) != reference.encode(text):
            raise InputError(
                f"the tokenizer that transformers builds from the GGUF file is wrong for {text!r}: "
                "install the version of transformers that trimlab pins"
            )

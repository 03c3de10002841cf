"""Byte-level BPE, as in GPT-2 and SmolLM2: `tokenizer.ggml.model` is "gpt2".

Source: the byte table of GPT-2, https://github.com/openai/gpt-2 (src/encoder.py); the patterns that
cut a text into words, https://github.com/ggml-org/llama.cpp (src/llama-vocab.cpp).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import regex
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from trimlab.errors import InputError
from trimlab.model.gguf_tokens import GgufFields, GgufTokens

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class ByteLevelTokens(GgufTokens):
    """Vocabulary and encoder of a byte-level BPE model whose digits are tokens of their own.

    Attributes:
        ids: All tokens and their ids.
        ranks: The merges, the earliest first.
    """

    ids: dict[str, int]
    ranks: dict[tuple[str, ...], int]

    @classmethod
    def read(cls, fields: GgufFields) -> "ByteLevelTokens":
        if fields["pre"] != "smollm":
            raise InputError(f"no reference for the pre-tokenizer {fields['pre']!r} of a GGUF file")
        return cls(
            ids={token: i for i, token in enumerate(fields["tokens"])},
            ranks={tuple(merge.split(" ")): i for i, merge in enumerate(fields["merges"])},
        )

    def complete(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # Digits are cut apart before words are: transformers builds the second rule alone, and
        # "  12" becomes " ", " 12" instead of "  ", "1", "2".
        backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )

    def encode(self, text: str) -> list[int]:
        """Encodes a text.

        Args:
            text: The text. Control tokens in it are ordinary characters.

        Returns:
            The ids; no token stands before the text or behind it.
        """
        ids = []
        for part in regex.splititer(r"(\p{N})", text):
            for word in regex.findall(_WORDS, part):
                ids += self._merge([_BYTES[byte] for byte in word.encode()])
        return ids

    def _merge(self, parts: list[str]) -> list[int]:
        """Joins neighbours, earliest merge first and leftmost among equals."""
        while len(parts) > 1:
            merges = [
                (self.ranks.get(p, len(self.ranks)), k) for k, p in enumerate(pairwise(parts))
            ]
            rank, k = min(merges)
            if rank == len(self.ranks):
                break
            parts = [*parts[:k], parts[k] + parts[k + 1], *parts[k + 2 :]]
        return [self.ids[part] for part in parts]


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte, GPT-2's `bytes_to_unicode`."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(0x100)]


_BYTES = _byte_characters()

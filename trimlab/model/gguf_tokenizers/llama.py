"""SentencePiece-BPE with byte tokens, as in LLaMA and Gemma: `tokenizer.ggml.model` is "llama".

Source: SentencePiece, https://github.com/google/sentencepiece (src/bpe_model.cc). On thousands of
strings this encoder agrees with that library given the same tokens.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from trimlab.model.gguf_tokens import GgufFields, GgufTokens

SPACE = "\u2581"  # SentencePiece writes a space as "▁"


@dataclass(frozen=True)
class SentencePieceTokens(GgufTokens):
    """Vocabulary and encoder of a SentencePiece-BPE model.

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
    def read(cls, fields: GgufFields) -> "SentencePieceTokens":
        from gguf import TokenType  # comes with the extra "embedded"

        ids: dict[int, dict[str, int]] = {kind: {} for kind in TokenType}
        kinds = zip(fields["tokens"], fields["token_type"], strict=True)
        for i, (token, kind) in enumerate(kinds):
            # GGUF spells user-defined tokens with real spaces, ordinary ones with "▁".
            ids[kind][token.replace(" ", SPACE)] = i
        return cls(
            pieces=ids[TokenType.NORMAL],
            scores=fields["scores"],
            user_defined=ids[TokenType.USER_DEFINED],
            byte_ids=[ids[TokenType.BYTE][f"<0x{byte:02X}>"] for byte in range(256)],
            bos_id=fields["bos_token_id"],
        )

    def complete(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # Runs of spaces are tokens of their own and match before all merges, the longest (31)
        # first; transformers leaves them to the merges, which cut 32 spaces into 16 + 16.
        # `normalized`: they are searched for after spaces have become "▁".
        runs = [token for token in self.user_defined if set(token) == {SPACE}]
        added: Any = [AddedToken(run, normalized=True, special=False) for run in runs]
        tokenizer.add_tokens(added)

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

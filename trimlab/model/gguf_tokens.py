"""Reference tokenizer of a GGUF file, to check the tokenizer that a library builds from it.

A GGUF file holds tokens, scores or merges, and types, but no code. Libraries build a tokenizer from
them, and a small error there ("▁heart" cut into "▁he" and "art") still gives plausible accuracies.
The encoders of `gguf_tokenizers/` are short and slow. Each is a file that is named after the value
of `tokenizer.ggml.model`.

Source: GGUF, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (tokenizer.ggml.*).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimlab.errors import InputError, one_line
from trimlab.plugins import plugin_class, plugin_module

GGUF_TOKENIZERS = "trimlab.model.gguf_tokenizers"

GgufFields = Mapping[str, Any]  # the fields `tokenizer.ggml.*` of a GGUF file, without this prefix


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
    *(f"x{c * n}12{c * n}½²7" for c in " \n\t" for n in (1, 2, 3)),
    "",
)


class GgufTokens(ABC):
    """Vocabulary and encoder of a GGUF file."""

    @classmethod
    @abstractmethod
    def read(cls, fields: GgufFields) -> "GgufTokens":
        """Reads the vocabulary.

        Args:
            fields: The fields of the tokenizer.

        Raises:
            KeyError: A part of the vocabulary is missing.
            InputError: There is no reference for tokenizers of this kind.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, as the original tokenizer gives them."""

    @abstractmethod
    def complete(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Adds what transformers leaves out when it builds a tokenizer from such a file."""


def read_gguf_tokens(path: Path) -> GgufTokens:
    """Reads the reference tokenizer of a GGUF file.

    Args:
        path: The file.

    Raises:
        InputError: There is no reference for its kind of tokenizer, or the file is damaged.
    """
    from gguf import GGUFReader  # comes with the extra "embedded"

    prefix, kind = "tokenizer.ggml.", "reference tokenizer of GGUF files"
    try:
        fields = {
            name.removeprefix(prefix): field.contents()
            for name, field in GGUFReader(path).fields.items()
            if name.startswith(prefix)
        }
        module = plugin_module(GGUF_TOKENIZERS, fields["model"], kind)
        return plugin_class(module, GgufTokens).read(fields)
    except InputError:
        raise
    except Exception as error:  # the reader checks little of what it reads
        raise InputError(f"{path} is no GGUF file with a vocabulary: {one_line(error)}") from error


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

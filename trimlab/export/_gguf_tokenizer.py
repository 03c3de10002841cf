"""A tokenizer of transformers as the vocabulary of a GGUF file.

What a file of transformers says by rules, llama.cpp has as code under a name, `tokenizer.ggml.pre`.
The name is found by trying: llama.cpp must give the same ids for the probe texts.

Source: GGUF, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (tokenizer.ggml.*).
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from trimlab.engines.llama_cpp import tokenize
from trimlab.errors import InputError
from trimlab.model.gguf_tokens import PROBES
from trimlab.model.notes import note_once

# llama.cpp's names of rules that cut a text into words, the common ones first
_BYTE_LEVEL = ("gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "olmo", "starcoder", "falcon")
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, arch: str, size: int
) -> None:
    """Adds a vocabulary that llama.cpp reads as the tokenizer does.

    Where there is none, the file has no vocabulary, which is said on standard error.

    Args:
        writer: The writer of the file.
        tokenizer: The tokenizer.
        arch: llama.cpp's name of the architecture.
        size: Rows of the model's embedding.
    """
    name = _found_name(tokenizer, arch, size)
    if name is None:
        note_once(
            "llama.cpp has no tokenizer that gives the same tokens as this model's: the GGUF file "
            "is written without one, and reads token ids only"
        )
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(size)
    else:
        _add(writer, tokenizer, size, name)


def _found_name(tokenizer: PreTrainedTokenizerBase, arch: str, size: int) -> str | None:
    """The name of the rules with which llama.cpp gives the same ids; None if there are none."""
    state = _state(tokenizer)
    if state.get("model", {}).get("type") != "BPE":
        return None
    # a NUL ends a text in many programs, llama.cpp's tokenizer among them
    texts = [text for text in PROBES if "\0" not in text]
    expected = [list(tokenizer(text)["input_ids"]) for text in texts]
    with TemporaryDirectory() as folder:
        for name in ("default",) if state["model"]["byte_fallback"] else _BYTE_LEVEL:
            path = Path(folder) / f"{name}.gguf"
            writer = GGUFWriter(path, arch)
            _add(writer, tokenizer, size, name)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            try:
                if tokenize(path, texts) == expected:
                    return name
            except InputError:  # the rules do not fit the tokens
                continue
    return None


def _add(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int, name: str) -> None:
    """Adds tokens, merges or scores, and special tokens."""
    state = _state(tokenizer)
    tokens, types = _tokens(tokenizer, state, size)
    pieces = state["model"]["byte_fallback"]  # as SentencePiece has them
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    if pieces:
        writer.add_token_scores(_scores(tokens, merges))
        first = tokenizer.tokenize("a")
        writer.add_add_space_prefix(bool(first) and first[0].startswith("\u2581"))
    else:
        writer.add_token_merges(merges)
    writer.add_token_types(types)
    for role in ("bos", "eos", "unk", "pad"):
        token_id = getattr(tokenizer, f"{role}_token_id")
        if token_id is not None:
            getattr(writer, f"add_{role}_token_id")(token_id)
    ids = list(tokenizer("a")["input_ids"])
    writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, state: dict[str, Any], size: int
) -> tuple[list[str], list[int]]:
    """The token of every row of the embedding, and its type."""
    added = {token["id"]: token for token in state["added_tokens"]}
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for index in range(size):
        token = names.get(index, f"[PAD{index}]")
        if index not in names:
            kind = TokenType.UNUSED
        elif index in added:
            special = added[index]["special"]
            kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
        elif state["model"]["byte_fallback"] and _BYTE.fullmatch(token):
            kind = TokenType.BYTE
        else:
            kind = TokenType.NORMAL
        if index == tokenizer.unk_token_id and state["model"]["byte_fallback"]:
            kind = TokenType.UNKNOWN
        tokens.append(token)
        types.append(int(kind))
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Scores of pieces, such that the earliest merge has the highest one."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What tokenizer.json holds; empty where the tokenizer has none."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else json.loads(backend.to_str())

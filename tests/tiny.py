"""Tiny random models, their tokenizer, and a domain that they can learn a little of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from experiments.checking.tiny import letter_rows
from trimlab.model.family import family_of

TinyModel = Callable[..., PreTrainedModel]
TinyTokenizer = Callable[..., PreTrainedTokenizerFast]
TinyFolder = Callable[..., Path]
PlainScores = Callable[..., list[float]]

VOCABULARY = 64
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,:?-"
MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), (" ", "a"), ("o", "n"), ("b", "c")]


def tiny_model(
    family: str, dtype: torch.dtype = torch.float64, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A random model of a family, in evaluation mode; `overrides` go into its config."""
    bare = AutoConfig.for_model(family)
    config = AutoConfig.for_model(family, **(COMMON | family_of(bare).tiny | overrides))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # biases and norms are initialised to 0 and 1: a test would not see them
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tiny_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Lower-case letters with a few merges, some of them across a space; fits `VOCABULARY`."""
    tokens = [*SPECIAL, *LETTERS, *(a + b for a, b in MERGES)]
    assert len(tokens) <= VOCABULARY
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.decoder = decoders.Fuse()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def tiny_folder(
    path: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **overrides: Any
) -> Path:
    """A local Hugging Face folder with a tiny model and its tokenizer."""
    folder = path / f"tiny-{family}"
    tiny_model(family, dtype, **overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, item: Any, max_length: int = 256
) -> list[float]:
    """Log-likelihood of every choice of an item, the plain way: one whole pass per choice.

    A long text loses its first tokens behind the BOS, which the tokenizer adds.
    """
    start = max(1, len(tokenizer(item.context)["input_ids"]))
    texts = [tokenizer(item.context + choice)["input_ids"] for choice in item.choices]
    cut = max(0, max(map(len, texts)) - max_length)
    bos = int(texts[0][0] == tokenizer.bos_token_id)
    scores = []
    for text in texts:
        ids = torch.tensor([[*text[:bos], *text[bos + cut :]]])
        log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        scored = range(start - cut, len(text) - cut)
        scores.append(sum(float(log_probs[p - 1, ids[0, p]]) for p in scored))
    return scores


def letters_domain(folder: Path, sizes: tuple[int, int, int] = (24, 40, 24)) -> Path:
    """A domain that a tiny model can learn a little of: which letter the word begins with."""
    return letter_rows(folder, sizes, shortest=3)

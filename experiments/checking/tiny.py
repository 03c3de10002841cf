"""A tiny random model and a domain that it can learn."""

import json
import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trimlab.model.shape_tokenizer import shape_tokenizer


def tiny_model(folder: Path) -> Path:
    """A LLaMA of four blocks with random weights, and a tokenizer of bytes."""
    shape_tokenizer([], 320).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def letter_rows(
    folder: Path, sizes: tuple[int, int, int] = (80, 80, 80), shortest: int = 4
) -> Path:
    """A domain that a tiny model can learn: the first letter of a word.

    Args:
        folder: The folder of the rows.
        sizes: Number of rows for training, validation and test.
        shortest: Length of the shortest words.
    """
    generator, words = random.Random(0), set[str]()
    while len(words) < sum(sizes):
        words.add("".join(generator.choices("abcde", k=generator.randint(shortest, 9))))
    order = sorted(words)
    generator.shuffle(order)
    folder.mkdir(exist_ok=True)
    for split, size in zip(("train", "validation", "test"), sizes, strict=True):
        chosen, order = order[:size], order[size:]
        rows = (
            {"question": word, "choices": list("abcde"), "answer": "abcde".index(word[0])}
            for word in chosen
        )
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder

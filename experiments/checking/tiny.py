"""A tiny random model and a domain that it can learn."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def tiny_model(folder: Path) -> Path:
    """A LLaMA of four blocks with random weights, and a tokenizer of bytes."""
    names = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
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


def letter_rows(folder: Path) -> Path:
    """A domain that a tiny model can learn: the first letter of a word."""
    generator, words = random.Random(0), set[str]()
    while len(words) < 240:
        words.add("".join(generator.choices("abcde", k=generator.randint(4, 9))))
    order = sorted(words)
    generator.shuffle(order)
    folder.mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        rows = (
            {"question": word, "choices": list("abcde"), "answer": "abcde".index(word[0])}
            for word in order[number * 80 : number * 80 + 80]
        )
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder

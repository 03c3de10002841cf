"""A small LLaMA of 135 million parameters, with a vocabulary unlike the embedded models'."""

from transformers import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=32_000,
    hidden_size=512,
    intermediate_size=1376,
    num_hidden_layers=32,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=2048,
)

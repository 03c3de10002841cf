"""LLaMA-13B, the larger model of the paper's Table 2."""

from transformers import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=32_000,
    hidden_size=5120,
    intermediate_size=13_824,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=40,
    max_position_embeddings=2048,
    rms_norm_eps=1e-6,
)

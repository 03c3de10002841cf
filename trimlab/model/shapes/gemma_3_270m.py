"""Gemma-3-270M: 18 blocks, sliding and full attention, tied embeddings of 262,144 tokens."""

from transformers import Gemma3TextConfig

CONFIG = Gemma3TextConfig(
    vocab_size=262_144,
    hidden_size=640,
    intermediate_size=2048,
    num_hidden_layers=18,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
    query_pre_attn_scalar=256,
    max_position_embeddings=32_768,
    sliding_window=512,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
)

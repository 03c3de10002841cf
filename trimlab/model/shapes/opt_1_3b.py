"""OPT-1.3B, of the paper's Table 8."""

from transformers import OPTConfig

CONFIG = OPTConfig(
    vocab_size=50_272,
    hidden_size=2048,
    word_embed_proj_dim=2048,
    ffn_dim=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    max_position_embeddings=2048,
)

"""OPT-6.7B, of the paper's Table 8."""

from transformers import OPTConfig

CONFIG = OPTConfig(
    vocab_size=50_272,
    hidden_size=4096,
    word_embed_proj_dim=4096,
    ffn_dim=16_384,
    num_hidden_layers=32,
    num_attention_heads=32,
    max_position_embeddings=2048,
)

"""A tiny GGUF file, of the architecture and the kind of tokenizer of the embedded Gemma."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType


def tiny_vocabulary() -> list[tuple[str, float, TokenType]]:
    """Tokens, scores and types: longer words have worse scores, runs of 2 and 3 spaces exist."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = ["he", "ar", "th", "the", "hear", "heart", "art", "▁h", "▁he", "▁heart", "▁the"]
    return [
        *((token, -1000.0, TokenType.CONTROL) for token in control),
        *((token, -1000.0, TokenType.USER_DEFINED) for token in ("\n", "\n\n", "  ", "   ", "<b>")),
        *((f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)),
        *((token, -float(i), TokenType.NORMAL) for i, token in enumerate(words)),
        *((token, -100.0 - i, TokenType.NORMAL) for i, token in enumerate("▁abehrtx")),
    ]


def write_tiny_gguf(path: Path) -> dict[str, np.ndarray]:
    """Writes a Gemma-3 of two blocks with random float32 weights, which it returns."""
    rng = np.random.default_rng(0)
    hidden, heads, head_dim, feed_forward, blocks = 32, 2, 16, 64, 2
    vocabulary = tiny_vocabulary()
    writer = GGUFWriter(path, "gemma3")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(64)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)

    block = {
        "attn_norm": (hidden,),
        "attn_q": (heads * head_dim, hidden),
        "attn_k": (head_dim, hidden),
        "attn_v": (head_dim, hidden),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
        "attn_output": (hidden, heads * head_dim),
        "post_attention_norm": (hidden,),
        "ffn_norm": (hidden,),
        "ffn_gate": (feed_forward, hidden),
        "ffn_up": (feed_forward, hidden),
        "ffn_down": (hidden, feed_forward),
        "post_ffw_norm": (hidden,),
    }
    shapes = {"token_embd": (len(vocabulary), hidden), "output_norm": (hidden,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(blocks) for name, shape in block.items()}
    weights = {
        f"{name}.weight": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path

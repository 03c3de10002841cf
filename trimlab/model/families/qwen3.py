"""Qwen3 (`Qwen3ForCausalLM`): LLaMA's block with norms on q and k inside the attention."""

from trimlab.model.family import Family

FAMILY = Family(
    tiny={
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
)

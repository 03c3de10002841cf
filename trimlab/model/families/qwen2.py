"""Qwen2 and 2.5 (`Qwen2ForCausalLM`): LLaMA's block with biases on q, k and v."""

from trimlab.model.family import Family

FAMILY = Family(
    tiny={
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    }
)

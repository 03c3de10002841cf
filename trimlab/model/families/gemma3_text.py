"""Gemma 3, text only (`Gemma3ForCausalLM`): two norms per sublayer, two rotary bases.

Sliding and full attention alternate by block (`layer_types`), each with its own rotary base,
and the input embedding is the LM head.
"""

from trimlab.model.family import Family, Layout

FAMILY = Family(
    attention=Layout(("input_layernorm", "self_attn", "post_attention_layernorm"), "self_attn"),
    mlp=Layout(("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"), "mlp"),
    tiny={
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]
        + ["sliding_attention"],
    },
)

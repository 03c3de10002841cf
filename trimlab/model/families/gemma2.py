"""Gemma 2 (`Gemma2ForCausalLM`): a norm before and after each sublayer, logits capped."""

from trimlab.model.family import Family, Layout

FAMILY = Family(
    attention=Layout(("input_layernorm", "self_attn", "post_attention_layernorm"), "self_attn"),
    mlp=Layout(("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"), "mlp"),
    tiny={
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
)

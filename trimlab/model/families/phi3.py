"""Phi-3 and Phi-4-mini (`Phi3ForCausalLM`): LLaMA's block with fused qkv and gate-up."""

from trimlab.model.family import Family

FAMILY = Family(tiny={"sliding_window": 8, "pad_token_id": 0})

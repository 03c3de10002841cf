"""Mistral (`MistralForCausalLM`): LLaMA's block; one sliding window for every attention."""

from trimlab.model.family import Family

FAMILY = Family(tiny={"sliding_window": 8})

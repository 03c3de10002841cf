"""LLaMA 1 to 3 (`LlamaForCausalLM`): one norm before each sublayer, all attention full."""

from trimlab.model.family import Family

FAMILY = Family()

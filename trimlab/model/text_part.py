"""The text part of a multimodal model (Gemma 3 with images, LLaVA): its language model alone.

For a text without images, the language model computes the same logits as the whole model. The
vision tower and the projector are left out.
"""

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from trimlab.errors import InputError
from trimlab.model.family import FAMILIES
from trimlab.plugins import plugin_names

# weights of the language model in a multimodal checkpoint, under the names of a text-only model
TEXT_NAMES = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^(model\.)?language_model\.(model\.)?": "model.",
}


def text_config(config: PreTrainedConfig, name: str) -> PreTrainedConfig | None:
    """The config of a multimodal model's language model.

    Args:
        config: The config of the whole folder.
        name: The name that it is loaded by, for the message.

    Returns:
        None for a text-only model.

    Raises:
        InputError: The language model is of no supported family, or quantised.
    """
    text: Any = getattr(config, "text_config", None)
    families = plugin_names(FAMILIES)
    if not isinstance(text, PreTrainedConfig) or config.model_type in families:
        return None
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING or text.model_type not in families:
        raise InputError(
            f"{name} is multimodal ({config.model_type}), and its language model "
            f"({text.model_type}) is none of {', '.join(families)}: give a text-only model of them"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{name} is multimodal and quantised, and its text part cannot be loaded alone: give "
            "the model that is not quantised, or a text-only one"
        )
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(text, token, None) is None:
            setattr(text, token, getattr(config, token, None))
    text.tie_word_embeddings = config.tie_word_embeddings
    return text

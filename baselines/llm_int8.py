"""LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339): eight bits, outliers apart; bitsandbytes."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from trimlab.compression import Baseline, Texts
from trimlab.models import model_folder


class LLMInt8(Baseline):
    """Rounds weights and inputs to eight bits, except the input features that are large.

    Args:
        threshold: Features with an entry larger than this are computed with plain weights.
    """

    title = "LLM.int8()"
    library = "bitsandbytes"

    def __init__(self, threshold: float = 6.0):
        self.threshold = threshold

    def compress(self, model: str, texts: Texts, folder: Path) -> None:
        """Writes weights of eight bits; needs no texts."""
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.threshold)
        _load(model_folder(model), quantization_config=config).save_pretrained(folder)

    def load(self, folder: Path) -> PreTrainedModel:
        """Loads the weights as they were written."""
        from bitsandbytes.nn.modules import Linear8bitLt

        model = _load(folder)
        for module in model.modules():
            if isinstance(module, Linear8bitLt):
                # else the first pass does, and copies of the model made before it have no scales
                module.init_8bit_state()
        return model


def _load(folder: Path, **more: object) -> PreTrainedModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map=device, use_safetensors=True, **more
    )

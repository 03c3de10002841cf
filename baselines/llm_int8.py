"""LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339): eight bits, outliers apart; bitsandbytes."""

from pathlib import Path

from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.model.device import Placement
from trimlab.model.loading import model_folder


class LLMInt8(Baseline):
    """Rounds weights and inputs to eight bits, except the input features that are large.

    Args:
        threshold: Features with an entry larger than this are computed in 16 bits.
    """

    title = "LLM.int8()"
    library = "bitsandbytes"

    def __init__(self, threshold: float = 6.0):
        self.threshold = threshold

    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes weights of eight bits, without calibration."""
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.threshold)
        rounded = AutoModelForCausalLM.from_pretrained(
            model_folder(model),
            quantization_config=config,
            dtype=placement.dtype,
            device_map={"": str(placement.device)},
            use_safetensors=True,
        )
        rounded.save_pretrained(folder)

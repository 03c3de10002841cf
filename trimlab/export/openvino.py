"""OpenVINO for Intel processors: a graph that keeps its KV cache (tiers T1 and T3)."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from trimlab.engines.openvino import WEIGHTS
from trimlab.export._traced import TracedFormat, quiet, traced_inputs, weights_in
from trimlab.model.sublayers import SublayerStack

# 4 bits: weights of a row that share a scale, where a row is a multiple of it, and the share of the
# weights that are rounded so far; those with the largest errors get 8 bits
GROUP, FOUR_BITS = 32, 0.8


class OpenVINO(TracedFormat):
    """`openvino_model.xml` and its weights beside it."""

    engine = "openvino"
    compressions = ("int8", "int4")

    @property
    def dtypes(self) -> list[str]:
        """Without float16: OpenVINO would round the frequencies of positions, too."""
        return ["float32", *self.compressions]

    def saved_dtype(self, stack: SublayerStack, dtype: str | None) -> torch.dtype:
        """See `ExportFormat.saved_dtype`."""
        return torch.float32

    def trace(self, model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
        """See `TracedFormat.trace`."""
        from transformers.exporters.configs import OpenVINOConfig
        from transformers.exporters.exporter_openvino import OpenVINOExporter

        with weights_in(model, dtype):
            config = OpenVINOConfig(dynamic=True, compress_to_fp16=False)
            exported = OpenVINOExporter().export(model, traced_inputs(model), config)
            exported.save_pretrained(folder)

    def compress(self, folder: Path, dtype: str) -> None:
        """Rounds the weights with NNCF: rows to 8 bits, or most groups to 4 and the head to 8."""
        import nncf
        import openvino

        model = openvino.Core().read_model(folder / WEIGHTS)
        groups = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
        modes = {
            "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
            "int4": {
                "mode": nncf.CompressWeightsMode.INT4_ASYM,
                "group_size": GROUP,
                "ratio": FOUR_BITS,
                "advanced_parameters": groups,
            },
        }
        with quiet():
            rounded = nncf.compress_weights(model, **modes[dtype])
        # not over the files that the model still reads its weights from
        small = folder / "small"
        openvino.save_model(rounded, small / WEIGHTS, compress_to_fp16=False)
        del model, rounded
        for path in small.iterdir():
            path.replace(folder / path.name)
        small.rmdir()

"""ONNX for ONNX Runtime: a graph with its KV cache as inputs and outputs (tiers T1 and T3)."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from trimlab.engines.onnxruntime import WEIGHTS
from trimlab.export._traced import TracedFormat, quiet, traced_inputs, weights_in

GROUP = 32  # weights of a row that share a scale


class Onnx(TracedFormat):
    """`model.onnx` and its weights beside it, with fused operations of ONNX Runtime for CPUs."""

    engine = "onnxruntime"
    compressions = ("int8", "int4")

    def trace(self, model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
        """See `TracedFormat.trace`."""
        import onnx
        from transformers.exporters.configs import OnnxConfig
        from transformers.exporters.exporter_onnx import OnnxExporter

        with weights_in(model, dtype):
            config = OnnxConfig(dynamic=True, ort_fusions="cpu")
            exported = OnnxExporter().export(model, traced_inputs(model), config)
            exported.save_pretrained(folder)
        graph = onnx.load(str(folder / WEIGHTS), load_external_data=False)
        _mend(graph.graph)
        onnx.save(graph, str(folder / WEIGHTS))

    def compress(self, folder: Path, dtype: str) -> None:
        """Rounds the matrices to groups of 8 or 4 bits; the embeddings stay whole."""
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        model = onnx.load(str(folder / WEIGHTS))
        _fold_transposed(model.graph)
        quantizer: Any = MatMulNBitsQuantizer(
            model,
            block_size=GROUP,
            is_symmetric=True,
            accuracy_level=4,  # products of 8 bits
            bits=int(dtype.removeprefix("int")),
        )
        with quiet():
            quantizer.process()
        for path in folder.glob(f"{WEIGHTS}*"):
            path.unlink()
        quantizer.model.save_model_to_file(str(folder / WEIGHTS), use_external_data_format=True)


def _mend(graph: Any) -> None:
    """Takes the order of batches out of products with weights, which ONNX Runtime refuses there.

    A rewriting rule of onnxscript 0.7 moves the transposition of the other factor into them.
    """
    from onnx import helper

    weights = {weight.name for weight in graph.initializer}
    for index, node in enumerate(list(graph.node)):
        flipped = [a for a in node.attribute if a.name == "transBatchA" and a.i]
        if node.op_type == "FusedMatMul" and flipped and node.input[1] in weights:
            node.attribute.remove(flipped[0])
            turned = f"{node.input[0]}_turned"
            turn = helper.make_node("Transpose", [node.input[0]], [turned], perm=[1, 0, 2])
            node.input[0] = turned
            graph.node.insert(index, turn)


def _fold_transposed(graph: Any) -> None:
    """Stores weights as products need them: the rounded ones must not be the embeddings, too."""
    from onnx import helper, numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    for index, node in enumerate(list(graph.node)):
        names = {a.name for a in node.attribute if a.name.startswith("trans") and a.i}
        if node.op_type == "FusedMatMul" and names == {"transB"} and node.input[1] in weights:
            turned = numpy_helper.to_array(weights[node.input[1]]).T.copy()
            name = f"{node.input[1]}_turned"
            graph.initializer.append(numpy_helper.from_array(turned, name))
            product = helper.make_node("MatMul", [node.input[0], name], list(node.output))
            graph.node.remove(node)
            graph.node.insert(index, product)

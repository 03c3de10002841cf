"""AWQ (Lin et al. 2023, arXiv 2306.00978): weights of four bits, scaled by their inputs.

Scales are searched and folded here, for all families: gptqmodel 7.6 folds them into the wrong norms
of Gemma 3, which has two around each sublayer and multiplies by one plus their weights. gptqmodel
rounds and packs the scaled model.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines._blocks import Call, begin, grams_of, run_block, text_batches
from baselines._gptqmodel import FourBits
from trimlab.baseline import CalibrationTokens
from trimlab.files import write_text
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack

GRID = 20  # exponents that are tried: 0, 0.05, ..., 0.95


class AWQ(FourBits):
    """Scales weights of large inputs up before rounding, and their inputs down.

    Without the clipping of outliers of the authors' code.

    Args:
        bits: Bits of a weight.
        group_size: Weights along a row that share a scale.
    """

    title = "AWQ"
    method = "awq"
    rows = 64

    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the packed weights with their scales."""
        dense, tokenizer = load_model(model, **placement._asdict())
        scale(SublayerStack(dense), texts, self.bits, self.group_size)
        scaled = folder / "scaled"
        dense.save_pretrained(scaled)
        tokenizer.save_pretrained(scaled)
        del dense
        super().compress(str(scaled), [], folder, placement)
        shutil.rmtree(scaled)
        _name_it_awq(folder)

    def config(self, library: Any) -> Any:
        """Rounding to the nearest, in the layout of most engines."""
        config: Any = library.quantization.config.RTNConfig
        return config(bits=self.bits, group_size=self.group_size, format="gemm", sym=False)


def _name_it_awq(folder: Path) -> None:
    """Corrects the config: gptqmodel packs rounded weights in AWQ's layout and names it GPTQ."""
    is_awq = {"quant_method": "awq", "method": "awq", "version": "gemm", "zero_point": True}
    for name in ("config.json", "quantize_config.json"):
        content = json.loads((folder / name).read_text())
        content.get("quantization_config", content).update(is_awq)
        write_text(folder / name, json.dumps(content, indent=2))


@torch.no_grad()
def scale(stack: SublayerStack, texts: CalibrationTokens, bits: int, group_size: int) -> None:
    """Makes a model's weights easier to round, without changing its outputs.

    Args:
        stack: The model; changed in place.
        texts: Token ids of the calibration texts.
        bits: Bits of a rounded weight.
        group_size: Weights along a row that will share a scale.
    """
    begun = [begin(stack, batch) for batch in text_batches(texts)]
    states = [state for state, _ in begun]  # (B, T, D) each
    for index, block in enumerate(stack.blocks):
        norms = [stack.modules(s)[0] for s in stack if s.block == index]
        readers = readers_of(norms, block, begun[0][1][index], states[0])
        with grams_of(block) as grams:
            states = [
                run_block(block, calls[index], state)
                for (_, calls), state in zip(begun, states, strict=True)
            ]
        for norm, layers in readers.items():
            weights = [layer.weight for layer in layers]
            scales = search(weights, grams[layers[0]], bits, group_size)
            divide_norm(norm, scales)
            for weight in weights:
                weight.mul_(scales)
        for module in block.modules():
            up, down = getattr(module, "up_proj", None), getattr(module, "down_proj", None)
            if isinstance(up, nn.Linear) and isinstance(down, nn.Linear):
                scales = search([down.weight], grams[down], bits, group_size)
                up.weight.div_(scales[:, None])
                if up.bias is not None:
                    up.bias.div_(scales)
                down.weight.mul_(scales)


def search(weights: Sequence[Tensor], gram: Tensor, bits: int, group_size: int) -> Tensor:
    """Scales of a layer's inputs that minimise the effect of rounding on its outputs.

    They are a power of the inputs' sizes; the exponent, one of a grid, minimises the squared error
    of the outputs (Equations 4 and 5). The size is the root mean square; the authors' code takes
    the mean of the absolute values.

    Args:
        weights: Weights of layers that read the same inputs.  # (R, C) each
        gram: Inner products of these, `X^T X`.  # (C, C)
        bits: Bits of a rounded weight.
        group_size: Weights along a row that share a scale.

    Returns:
        Factors of the weights; inputs are divided by them.  # (C,)
    """
    size = gram.diagonal().sqrt().clamp(min=1e-4)  # but for a factor, which cancels out
    grid, errors = list[Tensor](), list[Tensor]()
    for step in range(GRID):
        scales = size ** (step / GRID)
        scales = scales / (scales.max() * scales.min()).sqrt()
        error = size.new_zeros((), dtype=torch.float64)
        for weight in weights:
            weight = weight.to(gram.dtype)
            change = rounded(weight * scales, bits, group_size) / scales - weight  # (R, C)
            error += ((change @ gram) * change).sum()
        grid.append(scales)
        errors.append(error)
    return grid[int(torch.stack(errors).nan_to_num(torch.inf).argmin())]  # waits for a GPU once


def rounded(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """Weights rounded to the nearest of 2^bits steps between the extremes of their group.

    Args:
        weight: The weights.  # (R, C)
        bits: Bits of a rounded weight.
        group_size: Weights along a row that share a scale; it divides C.

    Returns:
        The rounded weights.  # (R, C)
    """
    groups = weight.view(len(weight), -1, group_size)  # (R, C / g, g)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    most = 2**bits - 1
    step = ((high - low) / most).clamp(min=1e-8)
    zero = (-low / step).round()
    return (((groups / step).round() + zero).clamp(0, most) - zero).mul(step).view_as(weight)


def divide_norm(norm: Any, scales: Tensor) -> None:
    """Divides the outputs of a norm, by changing its parameters."""
    # Gemma 1 to 3 multiply by one plus the weight
    offset = float(type(norm).__name__ in ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"))
    norm.weight.add_(offset).div_(scales).sub_(offset)
    if getattr(norm, "bias", None) is not None:
        norm.bias.div_(scales)


def readers_of(
    norms: Sequence[nn.Module], block: nn.Module, call: Call, state: Tensor
) -> dict[nn.Module, list[nn.Linear]]:
    """The linear layers whose input is the output of a norm, unchanged, by norm."""
    found: dict[nn.Module, list[nn.Linear]] = {}
    given: dict[int, tuple[nn.Module, Tensor]] = {}  # by address; kept, so that it is not reused

    def gives(norm: nn.Module, _args: Any, output: Tensor) -> None:
        given[output.data_ptr()] = norm, output

    def reads(layer: Any, args: tuple[Tensor, ...]) -> None:
        if (address := args[0].data_ptr()) in given:
            found.setdefault(given[address][0], []).append(layer)

    layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
    handles = [norm.register_forward_hook(gives) for norm in norms]
    handles += [layer.register_forward_pre_hook(reads) for layer in layers]
    try:
        run_block(block, call, state)
    finally:
        for handle in handles:
            handle.remove()
    return found

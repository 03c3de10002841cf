"""Comparing what an engine computes with what the trimmed model computes."""

import re
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimlab.engines._engine import LoadedModel
from trimlab.export._rounding import rounded_weights
from trimlab.model.sublayers import evaluating

MOST_ALLOWED = 0.25  # difference of logits in any type, as a share of the largest
MOST_BY_STRICT_ENGINE = 1e-4  # difference of log-probabilities in float32
# nats by bits of a weight: SmolLM2-135M at half depth lost 0.02 with 8 bits, with 4 bits 0.3 to 1.3
# and less than two points of accuracy; one MLP in its middle is worth 1.6, its first one 10
MOST_LOST = {4: 1.5, 8: 0.1, 16: 0.005, 32: 0.0005}

LIKELIEST = 5  # tokens of a position whose log-probabilities a strict engine must give
_PROMPT, _NEW = 8, 8  # tokens of the comparison that goes through the KV cache


class Difference(NamedTuple):
    """How far an engine's output is from the trimmed model's.

    Attributes:
        logits: Largest difference of log-probabilities, as a share of the largest logit. Of tokens
            that the engine decoded with its KV cache: by how much the trimmed model's logit of
            such a token is below its largest one.
        kl: Kullback-Leibler divergence of the engine's next-token distributions from the trimmed
            model's, in nats, mean over the positions.
        log_probs: Largest difference of log-probabilities of the five likeliest tokens of each
            position, in nats; not of tokens decoded. Those of unlikely tokens are large numbers,
            whose rounding says little.
    """

    logits: float
    kl: float
    log_probs: float

    def __str__(self) -> str:
        return (
            f"largest logit difference {self.logits:.1e} of the largest logit, "
            f"KL divergence {self.kl:.1e} nats"
        )


@torch.inference_mode()
def compare(
    trimmed: PreTrainedModel, exported: LoadedModel, dtype: torch.dtype | None = None
) -> Difference:
    """Compares an exported model in its engine with the trimmed model.

    Args:
        trimmed: The model that was exported.
        exported: The export.
        dtype: The type that the exported weights were rounded to; None compares with the trimmed
            model's weights as they are.
    """
    length = min(48, trimmed.config.max_position_embeddings)
    ids = torch.arange(length)[None] * 7 % trimmed.config.vocab_size  # (1, T)
    prompt = ids[0, :_PROMPT].tolist()
    new = list(exported.decode(prompt, min(_NEW, length - _PROMPT)))
    with evaluating(trimmed), rounded_weights(trimmed, dtype or trimmed.dtype):
        expected = _logits(trimmed, ids)  # (T, V)
        continued = _logits(trimmed, torch.tensor([prompt + new]))[_PROMPT - 1 : -1]
    scale = expected.abs().max()
    chosen = continued[torch.arange(len(new)), torch.tensor(new)]
    below = (continued.amax(-1) - chosen).max()
    expected = expected.log_softmax(-1)
    found = exported.logits(ids)[0].to(expected.dtype).log_softmax(-1)
    differences = (expected - found).abs()  # (T, V)
    likeliest = expected.topk(min(LIKELIEST, expected.shape[-1])).indices  # (T, K)
    furthest = differences.gather(-1, likeliest).max()
    largest = torch.maximum(differences.max(), below)  # NaN stays
    kl = (expected.exp() * (expected - found)).sum(-1).mean()
    return Difference(float(largest / scale), float(kl), float(furthest))


def check_equal(difference: Difference, *dtypes: torch.dtype, rounding: float = 0.0) -> None:
    """Refuses a difference that the order of summation cannot explain.

    Args:
        difference: The difference.
        *dtypes: The types that the logits were computed in; the coarsest one counts.
        rounding: What the engine rounds more coarsely than that, as a share of the largest logit.

    Raises:
        RuntimeError: It is too large.
    """
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    # a wrong weight, mask or position is off by whole units; a thousand roundings of bfloat16 are
    # larger than that
    if not difference.logits <= min(max(1000 * eps, rounding), MOST_ALLOWED):
        raise RuntimeError(
            f"the reloaded export's logits differ by {difference.logits:.2g} of the largest one"
        )


def check_strictly(difference: Difference, dtype: torch.dtype) -> None:
    """Refuses a difference of an engine that computes as PyTorch does.

    Args:
        difference: The difference.
        dtype: The type that the engine computed in; what is coarser than float32 is held to
            `check_equal`.

    Raises:
        RuntimeError: It is too large.
    """
    check_equal(difference, dtype)
    if dtype == torch.float32 and not difference.log_probs <= MOST_BY_STRICT_ENGINE:
        raise RuntimeError(
            f"the reloaded export's log-probabilities differ by {difference.log_probs:.2g}"
        )


def check_similar(difference: Difference, dtype: str) -> None:
    """Refuses compressed weights that lose more than their bits explain.

    Args:
        difference: The difference.
        dtype: Name of their type, with the bits in it: `q8_0`.

    Raises:
        RuntimeError: The divergence is too large.
    """
    bits = re.search(r"\d+", dtype)
    assert bits is not None
    most = MOST_LOST[int(bits[0])]
    if not difference.kl <= most:
        raise RuntimeError(
            f"the distributions of the export in {dtype} diverge by {difference.kl:.2g} nats from "
            f"the trimmed model's, and {most:g} are allowed"
        )


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits of one text, on the CPU, in float32 at least.  # (1, T) -> (T, V)"""
    logits = model(ids.to(model.device), use_cache=False).logits[0].cpu()
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

"""LLM-Streamline (Chen et al. 2024, arXiv 2403.19135): one light layer for many.

Of all runs of consecutive blocks of one length, the run with the most similar input and output is
replaced by a single block, which is trained to compute the same. It starts as the first block of
the run, so the result is an ordinary model with fewer blocks (the paper's "transformer layer"; its
other replacement, an FFN, is no ordinary model).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from baselines._blocks import Call, begin, run_block, text_batches
from trimlab.baseline import Baseline, CalibrationTokens
from trimlab.data.batching import Batch
from trimlab.errors import InputError
from trimlab.export.hf import save_packed
from trimlab.model.device import Placement
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack


class LLMStreamline(Baseline):
    """Replaces the most redundant run of blocks by one; fine-tuning comes after.

    Args:
        ratio: Layer memory to keep, between 0 and 1.
        epochs: Passes over the texts to train the replacement.
        lr: Peak learning rate (AdamW, linear decay).
    """

    title = "LLM-Streamline"
    before_training = True

    def __init__(self, ratio: float = 0.5, epochs: int = 5, lr: float = 1e-4):
        if not 0 < ratio < 1:
            raise InputError(f"ratio must be between 0 and 1, not {ratio}")
        self.ratio, self.epochs, self.lr = ratio, epochs, lr

    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes the model with fewer blocks."""
        deep, tokenizer = load_model(model, **placement._asdict())
        stack = SublayerStack(deep)
        gone = min(len(stack.blocks) - 1, round((1 - self.ratio) * len(stack.blocks)))
        if not gone:
            raise InputError(f"ratio {self.ratio} keeps all {len(stack.blocks)} blocks")
        batches = text_batches(texts)
        first = most_redundant(stack, batches, gone + 1)
        self._train(stack, batches, first, gone + 1)
        stack.drop(
            *(
                Sublayer(block, kind)
                for block in range(first + 1, first + 1 + gone)
                for kind in ("attention", "mlp")
            )
        )
        save_packed(stack, tokenizer, folder)

    def _train(
        self, stack: SublayerStack, batches: Sequence[Batch], first: int, length: int
    ) -> None:
        """Trains the first block of a run to compute the output of the run (mean squared error)."""
        examples = [_example(stack, batch, first, length) for batch in batches]
        block = stack.blocks[first]
        stack.model.requires_grad_(False)
        block.requires_grad_(True)
        steps = self.epochs * len(examples)
        optimizer = torch.optim.AdamW(block.parameters(), lr=self.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 1 - step / max(1, steps)
        )
        generator = torch.Generator().manual_seed(0)
        with tqdm(total=steps, desc="LLM-Streamline", unit="step", leave=False) as bar:
            for _ in range(self.epochs):
                for index in torch.randperm(len(examples), generator=generator).tolist():
                    call, before, wanted = examples[index]
                    found = run_block(block, call, before)  # (B, T, D)
                    loss = (found - wanted).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
                    bar.set_postfix(loss=f"{loss.item():.3g}")


@torch.no_grad()
def most_redundant(stack: SublayerStack, batches: Sequence[Batch], length: int) -> int:
    """The first block of the run with the most similar input and output.

    Args:
        stack: The model.
        batches: Calibration texts.
        length: Blocks of a run.

    Returns:
        The start of the run with the largest cosine similarity, averaged over all tokens.
    """
    sums = torch.stack([similarities(streams(stack, batch), length) for batch in batches])
    return int(sums.sum(0).argmax())


def similarities(states: Tensor, length: int) -> Tensor:
    """Cosine similarity of the input and output of every run of blocks, summed over tokens.

    Args:
        states: The residual stream before every block, and after the last.  # (L + 1, B, T, D)
        length: Blocks of a run.

    Returns:
        One sum for every start of a run.  # (L + 1 - length,)
    """
    cosines = torch.cosine_similarity(states[:-length], states[length:], dim=-1)
    return cosines.double().sum((1, 2))


def streams(stack: SublayerStack, batch: Batch) -> Tensor:
    """The residual stream before every block, and after the last.  # (L + 1, B, T, D)"""
    state, calls = begin(stack, batch)
    states = [state]
    for block, call in zip(stack.blocks, calls, strict=True):
        states.append(run_block(block, call, states[-1]))
    return torch.stack(states)


@torch.no_grad()
def _example(
    stack: SublayerStack, batch: Batch, first: int, length: int
) -> tuple[Call, Tensor, Tensor]:
    """A training example: arguments of the first block of a run, its input, the run's output."""
    state, calls = begin(stack, batch)
    for block, call in zip(stack.blocks[:first], calls, strict=False):
        state = run_block(block, call, state)
    before = state
    for index in range(first, first + length):
        state = run_block(stack.blocks[index], calls[index], state)
    return calls[first], before, state  # (B, T, D)

"""LLM-Streamline (Chen et al. 2024, arXiv 2403.19135): one light layer for many.

Of all runs of consecutive blocks of a length, the one goes whose input and output are the most
alike. A single block takes its place and is trained to do what they did. It starts as the first of
them, so that what is left is an ordinary model with fewer blocks (the paper's "transformer layer";
it also replaces them by an FFN, which is no ordinary model any more).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from baselines.sparsegpt import run_block, text_batches
from trimlab.calibration import Passage, record_passage
from trimlab.compression import Baseline, Texts
from trimlab.errors import InputError
from trimlab.export.hf import save_packed
from trimlab.models import load_model
from trimlab.sublayers import Sublayer, SublayerStack


class LLMStreamline(Baseline):
    """Replaces the most redundant run of blocks by one; fine-tuning comes after.

    Args:
        ratio: Layer memory that is left, from 0 to 1.
        epochs: Passes over the texts that train the replacement.
        lr: Its peak learning rate (AdamW; it falls linearly).
    """

    title = "LLM-Streamline"
    before_training = True

    def __init__(self, ratio: float = 0.5, epochs: int = 5, lr: float = 1e-4):
        if not 0 < ratio < 1:
            raise InputError(f"ratio must be between 0 and 1, not {ratio}")
        self.ratio, self.epochs, self.lr = ratio, epochs, lr

    def compress(self, model: str, texts: Texts, folder: Path) -> None:
        """Writes the model with fewer blocks."""
        deep, tokenizer = load_model(model)
        stack = SublayerStack(deep)
        gone = min(len(stack.blocks) - 1, round((1 - self.ratio) * len(stack.blocks)))
        if not gone:
            raise InputError(f"ratio {self.ratio} keeps all {len(stack.blocks)} blocks")
        with torch.no_grad():
            passages = [record_passage(stack, batch) for batch in text_batches(texts)]
            states = [streams(stack, passage) for passage in passages]  # (L + 1, B, T, D) each
        first = most_redundant(states, gone + 1)
        self._train(stack, first, gone + 1, passages, states)
        stack.drop(
            *(
                Sublayer(block, kind)
                for block in range(first + 1, first + 1 + gone)
                for kind in ("attention", "mlp")
            )
        )
        save_packed(stack, tokenizer, folder)

    def _train(
        self,
        stack: SublayerStack,
        first: int,
        length: int,
        passages: Sequence[Passage],
        states: Sequence[Tensor],
    ) -> None:
        """Trains the first block of a run to do what the whole run did (mean squared error)."""
        block = stack.blocks[first]
        stack.model.requires_grad_(False)
        block.requires_grad_(True)
        steps = self.epochs * len(passages)
        optimizer = torch.optim.AdamW(block.parameters(), lr=self.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 1 - step / max(1, steps)
        )
        generator = torch.Generator().manual_seed(0)
        with tqdm(total=steps, desc="LLM-Streamline", unit="step", leave=False) as bar:
            for _ in range(self.epochs):
                for index in torch.randperm(len(passages), generator=generator).tolist():
                    before, wanted = states[index][first], states[index][first + length]
                    found = run_block(block, first, passages[index], before)  # (B, T, D)
                    loss = (found - wanted).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
                    bar.set_postfix(loss=f"{loss.item():.3g}")


def streams(stack: SublayerStack, passage: Passage) -> Tensor:
    """The residual stream before every block, and behind the last.  # (L + 1, B, T, D)"""
    before = [args[0] for args, _ in passage.calls]
    behind = run_block(stack.blocks[-1], len(before) - 1, passage, before[-1])
    return torch.stack([*before, behind])


def most_redundant(states: Sequence[Tensor], length: int) -> int:
    """The first block of the run whose input and output are the most alike.

    Args:
        states: The residual stream before every block, and behind the last, of every batch of
            texts.  # (L + 1, B, T, D) each
        length: Blocks of a run.

    Returns:
        The start of the run with the largest cosine similarity, a mean over all tokens.
    """
    totals = sum(
        torch.cosine_similarity(s[:-length], s[length:], dim=-1).double().sum((1, 2))
        for s in states
    )  # (L + 1 - length,)
    assert isinstance(totals, Tensor)
    return int(totals.argmax())

"""The scan when only the choice is needed: candidates that cannot be chosen stop early.

A candidate's accuracy is at most what it would be if every item it has not met yet came out
right; its score, which falls as accuracy rises, is at least the score of that. So the candidates
in front are run on, a few items at a time, until those that would be chosen have met every item.
Nobody behind them can pass them any more: the choice is that of a whole scan, ties included.

Items that the model finds hard come first, since they tell candidates apart.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from trimlab.calibration import (
    Measure,
    Passage,
    Scan,
    Unit,
    hidden_without,
    record_passage,
    scan,
    scan_batches,
    stream,
)
from trimlab.choices import (
    Batch,
    EncodedItem,
    batches,
    collate,
    log_likelihoods,
    winning_likelihoods,
)
from trimlab.onednn import onednn_linears
from trimlab.sublayers import SublayerStack

Scores = list[tuple[float, ...]]
HARD_PARTS = 4  # items are sorted into so many parts, from hard to easy
MAX_BYTES = 4 * 2**30


@torch.inference_mode()
def best_first_scan(
    stack: SublayerStack,
    items: Sequence[EncodedItem],
    score: Callable[[Scan], Scores],
    choose: Callable[[Scores], list[int]],
    unit: Unit = "sublayer",
    measures: Iterable[Measure] = ("accuracy", "norm"),
    max_tokens: int = 1024,
    max_bytes: int = MAX_BYTES,
    step: int = 0,
    progress: bool = False,
) -> Scan:
    """Measures as much as it takes to know which candidates will be chosen.

    Args:
        stack: The model.
        items: Calibration items; their metric is accuracy.
        score: A scorer whose scores never rise with accuracy.
        choose: Indices of the candidates that are chosen, given all scores.
        unit: What is dropped together, see `calibration.candidates`.
        measures: What the scorer needs; everything but accuracy is measured in full.
        max_tokens: Most tokens that are computed at once, see `calibration.scan`.
        max_bytes: Most bytes of residual streams that are kept. If all of them do not fit, a
            whole scan is made, which works batch by batch.
        step: How many scans came before this one.
        progress: Show a bar; it ends early.

    Returns:
        Like a whole scan, with an upper bound in place of the accuracy of every candidate whose
        entry in `items` is less than the number of items.
    """
    model, width = stack.model, stack.model.config.hidden_size
    by_length = scan_batches(items, max_tokens)
    kept = sum(batch.input_ids.numel() for batch in by_length) * width * len(stack)
    if kept * model.dtype.itemsize > max_bytes:
        return scan(
            stack, by_length, unit, measures, step=step, progress=progress, max_tokens=max_tokens
        )

    whole = scan(stack, by_length, unit, set(measures) - {"accuracy"}, step=step)
    found = whole.candidates
    with ExitStack() as afterwards:
        afterwards.callback(model.train, model.training)
        model.eval()
        afterwards.enter_context(onednn_linears(model))  # the products of a whole scan
        kept_batches = [
            (batch, *_kept(stack, batch)) for batch in _hard_first(stack, items, max_tokens)
        ]
        right, met, turns = [0] * len(found), [0] * len(found), [0] * len(found)

        def as_far_as_known() -> Scan:
            hoped = [
                100 * ((r + len(items) - m) / len(items)) for r, m in zip(right, met, strict=True)
            ]
            return replace(whole, accuracy=hoped, items=list(met))

        total = len(found) * len(kept_batches)
        with tqdm(total=total, desc="scan", unit="turn", disable=not progress, leave=False) as bar:
            while True:
                scores = score(as_far_as_known())
                front = next((i for i in choose(scores) if met[i] < len(items)), None)
                if front is None:
                    return as_far_as_known()
                batch, passage, states = kept_batches[turns[front]]
                room = max(1, max_tokens // batch.input_ids.numel())
                group = sorted(_next_in_line(scores, turns, front)[:room])
                hidden = hidden_without(
                    stack, passage, [found[i] for i in group], states, batch.places
                )  # (C * B, T, D)
                likelihoods = winning_likelihoods(stack, hidden, batch.repeated(len(group)))
                for index, own in zip(group, likelihoods.split(len(batch)), strict=True):
                    right[index] += int((own.argmax(-1) == batch.gold).sum())
                    met[index] += len(batch)
                    turns[index] += 1
                bar.update(len(group))


def _next_in_line(scores: Scores, turns: Sequence[int], front: int) -> list[int]:
    """A candidate that has to run on, and those behind it that have come as far: lowest first.

    They are the likeliest to have to run, too, and a batch may leave room for them.
    """
    behind = sorted(range(len(scores)), key=scores.__getitem__)
    alike = [i for i in behind if turns[i] == turns[front] and scores[i] >= scores[front]]
    return [front, *(i for i in alike if i != front)]


def _kept(stack: SublayerStack, batch: Batch) -> tuple[Passage, dict]:
    """A plain pass over a batch: what a restart needs of it, and nothing more."""
    passage = record_passage(stack, batch)
    return replace(passage, outputs={}), stream(stack, passage)


def _hard_first(stack: SublayerStack, items: Sequence[EncodedItem], max_tokens: int) -> list[Batch]:
    """Batches in which the items on which the model is wrong or unsure come first."""
    margins = [0.0] * len(items)
    for group in batches(items, max_tokens):
        batch = collate(items, group).to(stack.model.device)
        likelihoods = log_likelihoods(stack, batch)  # (B, K)
        gold = likelihoods.gather(1, batch.gold[:, None])  # (B, 1)
        others = likelihoods.scatter(1, batch.gold[:, None], -torch.inf)  # (B, K)
        for i, margin in zip(group, (gold[:, 0] - others.amax(1)).tolist(), strict=True):
            margins[i] = margin
    order = sorted(range(len(items)), key=margins.__getitem__)
    size = -(-len(items) // HARD_PARTS)
    parts = (order[start : start + size] for start in range(0, len(order), size))
    return [
        batch.to(stack.model.device)
        for part in parts
        for batch in scan_batches([items[i] for i in part], max_tokens)
    ]

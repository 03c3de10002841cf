"""The scan: what becomes of the model when each candidate is dropped, without N evaluations.

Dropping a sublayer leaves everything before it as it was. So one plain pass keeps the residual
stream before every sublayer, and each candidate restarts from its own place: about half the work
of N evaluations, and the same numbers.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from trimlab.choices import (
    Batch,
    EncodedItem,
    batches,
    choice_likelihoods,
    collate,
    head_positions,
    model_inputs,
    winning_likelihoods,
)
from trimlab.errors import InputError
from trimlab.lanes import lanes
from trimlab.memory import give_back_memory
from trimlab.metrics import MetricName, TaskScore
from trimlab.onednn import onednn_linears
from trimlab.sublayers import Sublayer, SublayerStack, evaluating

Candidate = tuple[Sublayer, ...]  # sublayers that are dropped together
Unit = Literal["sublayer", "pair", "block"]
Measure = Literal["accuracy", "norm", "similarity"]


@dataclass(frozen=True)
class Scan:
    """What a scan measured, one value per candidate; None where it was not asked for.

    Attributes:
        candidates: The candidates, in the order of execution.
        accuracy: a_i, the score of the calibration items with the candidate bypassed, in
            [0, 100] (plain text: 100 exp(-mean token loss)).  # (C,)
        norm: Frobenius norm of what the candidate adds to the residual stream, over the real
            tokens of an item, averaged over items.  # (C,)
        similarity: Cosine of the hidden state before and after the candidate, averaged over
            the real tokens.  # (C,)
        n_blocks: Number of blocks of the original model.
        step: How many scans came before this one.
        items: Calibration items that each candidate has met, where some stopped early (see
            best_first.py): with fewer than all of them, `accuracy` is an upper bound.  # (C,)
        seed: Seed of the run, for scores that draw numbers.
    """

    candidates: list[Candidate]
    accuracy: list[float] | None = None
    norm: list[float] | None = None
    similarity: list[float] | None = None
    n_blocks: int = 0
    step: int = 0
    items: list[int] | None = None
    seed: int = 0


def scan_batches(items: Sequence[EncodedItem], max_tokens: int) -> list[Batch]:
    """Calibration items in batches for a scan.

    Small ones hold items of about one length, so that next to nothing is padding; it is candidates
    that fill what a pass computes at once.

    Args:
        items: Encoded items.
        max_tokens: Most tokens that are computed at once, see `scan`.
    """
    return [collate(items, group) for group in batches(items, max_tokens // 4)]


def candidates(stack: SublayerStack, unit: Unit = "sublayer") -> list[Candidate]:
    """What can be dropped next.

    Args:
        stack: The model.
        unit: `"sublayer"`: each one alone. `"pair"`: an attention and the MLP after it, or an
            MLP and the attention after it, so that what alternates goes on alternating; in a
            model with parallel blocks, whole blocks. `"block"`: attention and MLP of a block.
    """
    remaining = list(stack)
    if unit == "sublayer":
        return [(sublayer,) for sublayer in remaining]
    pairs = [
        (first, second)
        for first, second in itertools.pairwise(remaining)
        if first.kind != second.kind
    ]
    if unit == "block" or stack.parallel:
        return [pair for pair in pairs if pair[0].block == pair[1].block]
    return pairs


# is shown a sublayer as it runs: the stream before it, and what it adds  # (B, T, D) each
Look = Callable[[Sublayer, Tensor, Tensor], object]


@dataclass(frozen=True)
class Passage:
    """One plain pass over a batch, kept so that it can be restarted anywhere.

    Attributes:
        calls: Positional and keyword arguments of every block; the first is the hidden state.
        before: The residual stream before every remaining sublayer.  # (B, T, D) each
        hidden: Last hidden states, after the final norm.  # (B, T, D)
    """

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    before: dict[Sublayer, Tensor]
    hidden: Tensor

    def of_item(self, index: int) -> "Passage":
        """The same of one item of the batch."""
        size, row = len(self.hidden), slice(index, index + 1)
        calls = [
            (_of_item(args, size, index), {k: _of_item(v, size, index) for k, v in kwargs.items()})
            for args, kwargs in self.calls
        ]
        before = {sublayer: state[row] for sublayer, state in self.before.items()}
        return Passage(calls, before, self.hidden[row])


def record_passage(stack: SublayerStack, batch: Batch, look: Look | None = None) -> Passage:
    """Runs the model once and keeps what a restart needs.

    Args:
        stack: The model.
        batch: The items.
        look: Is shown every remaining sublayer, in the order of execution. What sublayers add is
            not kept: it would double what a passage holds.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    before: dict[Sublayer, Tensor] = {}
    shape = (*batch.input_ids.shape, -1)  # OPT flattens batch and time around its MLP

    def keep_call(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    def keep_state(sublayer: Sublayer) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Tensor, ...]) -> None:
            before[sublayer] = args[0].view(shape)

        return hook

    def show(sublayer: Sublayer, look: Look) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            look(sublayer, before[sublayer], output.view(shape))

        return hook

    handles = [b.register_forward_pre_hook(keep_call, with_kwargs=True) for b in stack.blocks]
    for sublayer in stack:
        first, *_, last = stack.modules(sublayer)
        handles.append(first.register_forward_pre_hook(keep_state(sublayer)))
        if look is not None:
            handles.append(last.register_forward_hook(show(sublayer, look)))
    try:
        hidden = stack.hidden(**model_inputs(batch, stack.model.config, stack.model.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return Passage(calls, before, hidden)


def hidden_without(
    stack: SublayerStack,
    passage: Passage,
    group: Sequence[Candidate],
    places: Tensor,
) -> Tensor:
    """Last hidden states of a batch without each of some candidates, computed together.

    A candidate runs what is left of its own blocks alone, since it is bypassed there. Behind them
    it joins those that came before it, and all go on as one batch.

    Args:
        stack: The model.
        passage: A pass over the same batch with every candidate in its place.
        group: Candidates, in the order of execution.
        places: Where the hidden states are read, see `Batch.places`.  # (U,)

    Returns:
        Hidden states after the final norm, right at the places alone.  # (C * B, T, D)
    """
    joined: Tensor | None = None  # (C' * B, T, D)
    ahead: list[int] = []  # what they have still to run
    for candidate in group:
        own, last = passage.before[candidate[0]], candidate[-1].block
        behind = blocks_behind(stack, candidate)
        with stack.bypass(*candidate):
            own = restart(stack, passage, own, [b for b in behind if b <= last], places)
        if joined is None:
            joined = own
        else:
            joined = restart(stack, passage, joined, [b for b in ahead if b <= last], places)
            joined = torch.cat([joined, own])
        ahead = [b for b in behind if b > last]
    assert joined is not None
    return stack.tail(restart(stack, passage, joined, ahead, places))


def restart(
    stack: SublayerStack, passage: Passage, state: Tensor, blocks: Iterable[int], places: Tensor
) -> Tensor:
    """Runs some of the blocks, as they are now, on several copies of a batch.

    Args:
        stack: The model.
        passage: A pass over the batch.
        state: The residual stream before the first of the blocks.  # (C * B, T, D)
        blocks: What has to run, see `blocks_behind`.
        places: Where hidden states are read in a copy, see `Batch.places`.  # (U,)

    Returns:
        The residual stream behind the last of the blocks; in the model's last block, right at
        the places alone.  # (C * B, T, D)
    """
    batch_size, length, _ = passage.hidden.shape
    copies = len(state) // batch_size
    offsets = torch.arange(copies, device=places.device) * batch_size * length  # (C,)
    with stack.read_at((offsets[:, None] + places).flatten()):
        for index in blocks:
            (_, *args), kwargs = passage.calls[index]
            kwargs = {name: _copied(value, batch_size, copies) for name, value in kwargs.items()}
            state = stack.blocks[index](state, *_copied(tuple(args), batch_size, copies), **kwargs)
    return state


def _copied(value: Any, batch_size: int, copies: int) -> Any:
    """An argument of a block for several copies of its batch: masks, rotary angles, positions."""
    if isinstance(value, tuple):
        return tuple(_copied(part, batch_size, copies) for part in value)
    if _has_items(value, batch_size):
        return value.repeat(copies, *[1] * (value.dim() - 1))
    return value


def _of_item(value: Any, batch_size: int, index: int) -> Any:
    """An argument of a block for one item of its batch."""
    if isinstance(value, tuple):
        return tuple(_of_item(part, batch_size, index) for part in value)
    return value[index : index + 1] if _has_items(value, batch_size) else value


def _has_items(value: Any, batch_size: int) -> bool:
    """Whether an argument is a tensor with a row for each item, and none that broadcasts."""
    return isinstance(value, Tensor) and value.dim() > 1 and len(value) == batch_size > 1


def blocks_behind(stack: SublayerStack, candidate: Candidate) -> list[int]:
    """The blocks that feel a candidate's absence; blocks without sublayers are left out.

    What the candidate leaves of its last block runs again only if it comes after the candidate
    or, in parallel blocks, beside it.
    """
    if stack.bypass_rule != "residual":  # a block without sublayers may change the stream too
        start = candidate[0].block + (candidate[0].kind == "mlp")
        return list(range(start, len(stack.blocks)))
    first = Sublayer(candidate[0].block, "attention") if stack.parallel else candidate[-1]
    return sorted({s.block for s in stack if s >= first and s not in candidate})


def frobenius_norms(added: Tensor, real: Tensor) -> Tensor:
    """Norm of what is added to the residual stream, per item.

    Args:
        added: Output before the residual add.  # (B, T, D)
        real: True for tokens, False for padding.  # (B, T)

    Returns:
        Frobenius norms over the real tokens.  # (B,)
    """
    return (added.double().square().sum(-1) * real).sum(-1).sqrt()


def cosines(before: Tensor, added: Tensor, real: Tensor) -> Tensor:
    """Cosine of the hidden state before and after, summed over the real tokens of an item.

    Args:
        before: Residual stream before the sublayer.  # (B, T, D)
        added: What the sublayer adds.  # (B, T, D)
        real: True for tokens, False for padding.  # (B, T)

    Returns:
        Sums of cosines.  # (B,)
    """
    cosine = torch.cosine_similarity(before.double(), (before + added).double(), dim=-1)
    return (cosine * real).sum(-1)


class BatchSizes:
    """How much candidates change the residual stream of one batch.

    Args:
        found: The candidates.
        measures: What to measure; accuracy, which takes more than one pass, is left to others.
        batch: The items.

    Attributes:
        norms: Frobenius norms, summed over the items.  # (C,)
        cosines: Cosines, summed over the real tokens.  # (C,)
        n_items: Number of items.
        n_tokens: Number of real tokens.
    """

    def __init__(self, found: Sequence[Candidate], measures: Iterable[Measure], batch: Batch):
        self._found, self._real = found, batch.real
        self._measures = {"norm", "similarity"} & set(measures)
        self.norms = torch.zeros(len(found), dtype=torch.float64, device=batch.real.device)
        self.cosines = torch.zeros_like(self.norms)
        self.n_items, self.n_tokens = len(batch), int(batch.real.sum())
        # candidates that have run in part: the stream before them, what they have added so far
        self._begun: dict[int, tuple[Tensor, Tensor]] = {}

    def look(self, sublayer: Sublayer, before: Tensor, added: Tensor) -> None:
        """Measures the candidates that end with a sublayer, see `record_passage`.

        Args:
            sublayer: What has been run.
            before: The residual stream before it.  # (B, T, D)
            added: What it adds.  # (B, T, D)
        """
        for index, candidate in enumerate(self._found if self._measures else []):
            if sublayer not in candidate:
                continue
            start, total = before, added
            if sublayer != candidate[0]:
                start, so_far = self._begun.pop(index)
                total = so_far + added
            if sublayer != candidate[-1]:
                self._begun[index] = start, total
                continue
            if "norm" in self._measures:
                self.norms[index] = frobenius_norms(total, self._real).sum()
            if "similarity" in self._measures:
                self.cosines[index] = cosines(start, total, self._real).sum()


class Sizes:
    """How much candidates change the residual stream, added up over batches.

    Args:
        found: The candidates.
        measures: What to measure, see `BatchSizes`.
    """

    def __init__(self, found: Sequence[Candidate], measures: Iterable[Measure]):
        self.found, self.measures = found, frozenset(measures)
        self._norms = torch.zeros(len(found), dtype=torch.float64)
        self._cosines = torch.zeros(len(found), dtype=torch.float64)
        self._items = self._tokens = 0

    def of(self, batch: Batch) -> BatchSizes:
        """Those of one batch: what is to `look` at a pass over it."""
        return BatchSizes(self.found, self.measures, batch)

    def add(self, of_batch: BatchSizes) -> None:
        """Adds those of a batch."""
        self._norms += of_batch.norms.cpu()
        self._cosines += of_batch.cosines.cpu()
        self._items += of_batch.n_items
        self._tokens += of_batch.n_tokens

    @property
    def norm(self) -> list[float] | None:
        """`Scan.norm`, if it was asked for.  # (C,)"""
        return (self._norms / self._items).tolist() if "norm" in self.measures else None

    @property
    def similarity(self) -> list[float] | None:
        """`Scan.similarity`, if it was asked for.  # (C,)"""
        return (self._cosines / self._tokens).tolist() if "similarity" in self.measures else None


def likelihoods_without(
    stack: SublayerStack,
    passage: Passage,
    batch: Batch,
    found: Sequence[Candidate],
    metric: MetricName,
    max_tokens: int,
    done: Callable[[int], object],
) -> Tensor:
    """Log-likelihood of every choice of a batch without each of some candidates.

    Args:
        stack: The model.
        passage: A plain pass over the batch.
        batch: The items.
        found: The candidates.
        metric: The task's metric: accuracy asks for the likeliest choice alone.
        max_tokens: Most tokens that are computed at once.
        done: Is told how many blocks have been run, as they are.

    Returns:
        Natural logarithms, or bounds that cannot win, see `winning_likelihoods`.  # (C, B, K)
    """
    places, (positions, scored) = batch.places, head_positions(batch)  # (U,), (B, S)
    seen: list[Tensor] = []  # hidden states at the positions  # (C * B, S, D) each
    together = max(1, max_tokens // batch.input_ids.numel())
    for start in range(0, len(found), together):
        group = found[start : start + together]
        hidden = hidden_without(stack, passage, group, places)  # (C * B, T, D)
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        seen.append(hidden[rows, positions.repeat(len(group), 1)])
        done(sum(len(blocks_behind(stack, candidate)) for candidate in group))
    # one pass of the head for all candidates: of a large vocabulary its weights take longer to
    # read than a few rows to compute
    likelihoods = winning_likelihoods if metric == "accuracy" else choice_likelihoods
    found_likelihoods = likelihoods(stack, torch.cat(seen), scored.repeated(len(found)))
    return found_likelihoods.view(len(found), len(batch), -1)  # (C, B, K)


@torch.inference_mode()
def scan(
    stack: SublayerStack,
    batches: Sequence[Batch],
    unit: Unit = "sublayer",
    measures: Iterable[Measure] = ("accuracy", "norm"),
    metric: MetricName = "accuracy",
    step: int = 0,
    progress: bool = False,
    max_tokens: int = 1024,
    seed: int = 0,
) -> Scan:
    """Measures every candidate on the calibration items.

    Args:
        stack: The model.
        batches: Calibration items; memory holds the passage of one batch for each lane.
        unit: What is dropped together, see `candidates`.
        measures: What to measure; without `"accuracy"` a scan is one plain pass.
        metric: The task's metric.
        step: How many scans came before this one.
        progress: Show a bar with the time left.
        max_tokens: As many candidates are computed at once as a batch leaves room for, in all
            lanes together.
        seed: Seed of the run, for scores that draw numbers.

    Returns:
        The measurements.

    Raises:
        InputError: There is nothing to measure on.
    """
    measures, found = set(measures), candidates(stack, unit)
    if not measures:  # a rule, which looks at nothing
        return Scan(found, n_blocks=len(stack.blocks), step=step, seed=seed)
    if not batches:
        raise InputError("a scan needs calibration items")
    batches = [batch.to(stack.model.device) for batch in batches]
    sizes = Sizes(found, measures)
    accuracy = [TaskScore(metric).to(stack.model.device) for _ in found]
    asked = found if "accuracy" in measures else []
    runs = len(stack.blocks) + sum(len(blocks_behind(stack, c)) for c in asked)  # of blocks
    with (
        evaluating(stack.model),
        onednn_linears(stack.model if asked else stack.model.base_model),
        lanes(stack) as side_by_side,
        tqdm(
            total=len(batches) * runs, desc="scan", unit="block", disable=not progress, leave=False
        ) as bar,
    ):
        room = max_tokens // min(side_by_side.n, len(batches))

        def done(n_blocks: int) -> None:
            side_by_side.check()
            bar.update(n_blocks)

        def measure(stack: SublayerStack, batch: Batch) -> tuple[BatchSizes, Tensor | None]:
            of_batch = sizes.of(batch)
            passage = record_passage(stack, batch, of_batch.look)
            done(len(stack.blocks))
            if not asked:
                return of_batch, None
            likelihoods = likelihoods_without(stack, passage, batch, asked, metric, room, done)
            del passage
            give_back_memory()  # in pieces that the next batch, of another length, may not fit in
            return of_batch, likelihoods

        # added up in the order of the batches, whichever is done first
        measured = side_by_side.map(measure, batches)
        for batch, (of_batch, likelihoods) in zip(batches, measured, strict=True):
            sizes.add(of_batch)
            if likelihoods is not None:
                for score, of_candidate in zip(accuracy, likelihoods, strict=True):
                    score.update(of_candidate, batch)
    return Scan(
        candidates=found,
        accuracy=[score.score().value for score in accuracy] if asked else None,
        norm=sizes.norm,
        similarity=sizes.similarity,
        n_blocks=len(stack.blocks),
        step=step,
        seed=seed,
    )

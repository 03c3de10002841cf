"""The cache of a forward pass, from which a candidate starts where it is bypassed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimlab.data.batching import Batch
from trimlab.errors import memory_is_full
from trimlab.evaluation.likelihoods import model_inputs
from trimlab.memory import release_memory
from trimlab.model.notes import note_once
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.scanning.candidates import Candidate

# called as a sublayer runs, with the residual stream before it and its output  # (B, T, D) each
SublayerHook = Callable[[Sublayer, Tensor, Tensor], object]


@dataclass(frozen=True)
class ForwardCache:
    """A forward pass of the whole model over a batch, which can be continued from any sublayer.

    Attributes:
        calls: Positional and keyword arguments of every block; the first is the hidden state.
        before: The residual stream before every remaining sublayer.  # (B, T, D) each
        hidden: Last hidden states, after the final norm.  # (B, T, D)
    """

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    before: dict[Sublayer, Tensor]
    hidden: Tensor

    def of_item(self, index: int) -> "ForwardCache":
        """The cache of one item of the batch, with its padding."""
        size, row = len(self.hidden), slice(index, index + 1)
        calls = [
            (_of_item(args, size, index), {k: _of_item(v, size, index) for k, v in kwargs.items()})
            for args, kwargs in self.calls
        ]
        before = {sublayer: state[row] for sublayer, state in self.before.items()}
        return ForwardCache(calls, before, self.hidden[row])


def cache_forward(
    stack: SublayerStack, batch: Batch, on_sublayer: SublayerHook | None = None
) -> ForwardCache:
    """Runs the model once and caches its forward pass.

    Args:
        stack: The model.
        batch: The items.
        on_sublayer: Called for every remaining sublayer, in the order of execution. Outputs of
            sublayers are not cached: they would double the cache's size.
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

    def show(sublayer: Sublayer, on_sublayer: SublayerHook) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            on_sublayer(sublayer, before[sublayer], output.view(shape))

        return hook

    handles = [b.register_forward_pre_hook(keep_call, with_kwargs=True) for b in stack.blocks]
    for sublayer in stack:
        first, *_, last = stack.modules(sublayer)
        handles.append(first.register_forward_pre_hook(keep_state(sublayer)))
        if on_sublayer is not None:
            handles.append(last.register_forward_hook(show(sublayer, on_sublayer)))
    try:
        hidden = stack.hidden(**model_inputs(batch, stack.model.config, stack.model.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return ForwardCache(calls, before, hidden)


def hidden_without(
    stack: SublayerStack,
    cache: ForwardCache,
    group: Sequence[Candidate],
    scored_positions: Tensor,
) -> Tensor:
    """Last hidden states of a batch without each of some candidates, computed together.

    The rest of a candidate's own blocks runs on its states alone, since it is bypassed there.
    Behind them its states join those of the earlier candidates, and all continue as one batch.

    Args:
        stack: The model.
        cache: A forward pass of the whole model over the same batch.
        group: Candidates, in the order of execution.
        scored_positions: Positions whose hidden states are read, see
            `Batch.scored_positions`.  # (U,)

    Returns:
        Hidden states after the final norm, valid at the scored positions only.  # (C * B, T, D)
    """
    copies = _Copies(len(cache.hidden), len(group))
    joined: Tensor | None = None  # (C' * B, T, D)
    ahead: list[int] = []  # blocks that they have still to run
    for candidate in group:
        own, last = cache.before[candidate[0]], candidate[-1].block
        behind = blocks_behind(stack, candidate)
        with stack.bypass(*candidate):
            blocks = [b for b in behind if b <= last]
            own = _run_blocks(stack, cache, own, blocks, scored_positions, copies=copies)
        if joined is None:
            joined = own
        else:
            blocks = [b for b in ahead if b <= last]
            joined = _run_blocks(stack, cache, joined, blocks, scored_positions, copies=copies)
            joined = torch.cat([joined, own])
        ahead = [b for b in behind if b > last]
    assert joined is not None
    joined = _run_blocks(stack, cache, joined, ahead, scored_positions, copies=copies)
    return stack.final_norm(joined)


def hidden_in_parts(
    stack: SublayerStack,
    cache: ForwardCache,
    found: Sequence[Candidate],
    scored_positions: Tensor,
    together: int,
) -> Iterator[tuple[Sequence[Candidate], Tensor]]:
    """Runs a batch without each of some candidates, as many at once as memory holds.

    Args:
        stack: The model.
        cache: A forward pass of the whole model over the same batch.
        found: Candidates, in the order of execution.
        scored_positions: See `hidden_without`.  # (U,)
        together: Most candidates at once; halved whenever memory is full.

    Yields:
        The next candidates, and their last hidden states.  # (C * B, T, D)
    """
    done = 0
    while done < len(found):
        group = found[done : done + together]
        try:
            hidden = hidden_without(stack, cache, group, scored_positions)  # (C * B, T, D)
        except (RuntimeError, MemoryError) as error:
            if len(group) == 1 or not memory_is_full(error):
                raise
            hidden = None  # and what the traceback refers to is gone behind this block
        if hidden is None:
            together = len(group) // 2
            note_once(f"out of memory in the scan: going on with {together} candidates at once")
            release_memory()
            continue
        yield group, hidden
        done += len(group)


def _run_blocks(
    stack: SublayerStack,
    cache: ForwardCache,
    state: Tensor,
    blocks: Iterable[int],
    scored_positions: Tensor,
    *,
    copies: "_Copies",
) -> Tensor:
    """Runs some of the blocks, as they are now, on several copies of a batch.

    Args:
        stack: The model.
        cache: A forward pass over the batch.
        state: The residual stream before the first of the blocks.  # (C * B, T, D)
        blocks: Indices of the blocks, see `blocks_behind`.
        scored_positions: Positions of one copy of the batch whose hidden states are read, see
            `Batch.scored_positions`.  # (U,)
        copies: The blocks' other arguments.

    Returns:
        The residual stream behind the last of the blocks; behind the model's last block, valid at
        the scored positions only.  # (C * B, T, D)
    """
    batch_size, length, _ = cache.hidden.shape
    n = len(state) // batch_size
    offsets = torch.arange(n, device=scored_positions.device) * batch_size * length  # (C,)
    with stack.last_mlp_only_at((offsets[:, None] + scored_positions).flatten()):
        for index in blocks:
            (_, *args), kwargs = cache.calls[index]
            kwargs = {name: copies.of(value, n) for name, value in kwargs.items()}
            state = stack.blocks[index](state, *copies.of(tuple(args), n), **kwargs)
    return state


class _Copies:
    """Arguments of blocks for several copies of a batch: masks, rotary angles, positions.

    The blocks share these tensors, so each is repeated once, and fewer copies are its beginning.
    What broadcasts over the items stays as it is.

    Args:
        batch_size: Items of the batch.
        most: Largest number of copies.
    """

    def __init__(self, batch_size: int, most: int):
        self._batch_size, self._most = batch_size, most
        self._made: dict[int, Tensor] = {}  # by the id of a tensor that the forward cache holds

    def of(self, value: Any, n: int) -> Any:
        """An argument for n copies."""
        if isinstance(value, tuple):
            return tuple(self.of(part, n) for part in value)
        if not _has_items(value, self._batch_size):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = _repeated(value, self._most)
        return self._made[id(value)][: n * self._batch_size]


def _repeated(value: Tensor, times: int) -> Tensor:
    """Copies of a tensor one after another, with the strides of the tensor.

    Rows of a mask may be longer than what is seen of them, as kernels of a GPU want it.
    """
    if value.stride(0) < max(value.stride()):  # an item's numbers do not lie together
        return value.repeat(times, *[1] * (value.dim() - 1))
    copies = value.new_empty_strided((times * len(value), *value.shape[1:]), value.stride())
    copies.unflatten(0, (times, len(value))).copy_(value)
    return copies


def _of_item(value: Any, batch_size: int, index: int) -> Any:
    """An argument of a block for one item of its batch."""
    if isinstance(value, tuple):
        return tuple(_of_item(part, batch_size, index) for part in value)
    return value[index : index + 1] if _has_items(value, batch_size) else value


def _has_items(value: Any, batch_size: int) -> bool:
    """Whether an argument is a tensor with a row for each item, not one that broadcasts."""
    return isinstance(value, Tensor) and value.dim() > 1 and len(value) == batch_size > 1


def blocks_behind(stack: SublayerStack, candidate: Candidate) -> list[int]:
    """The blocks that run again when a candidate is bypassed; none without sublayers.

    The rest of the candidate's last block is among them only if it follows the candidate or, in
    parallel blocks, reads the same input.
    """
    if stack.bypass_rule != "residual":  # a block without sublayers may change the stream too
        start = candidate[0].block + (candidate[0].kind == "mlp")
        return list(range(start, len(stack.blocks)))
    first = Sublayer(candidate[0].block, "attention") if stack.parallel else candidate[-1]
    return sorted({s.block for s in stack if s >= first and s not in candidate})

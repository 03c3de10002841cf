"""Passes of one block and of the LM head, run on tensors without data and counted."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedConfig

from trimlab.evaluation.likelihoods import CACHED_ROWS, rows_per_call
from trimlab.model.family import Kind
from trimlab.model.sublayers import SublayerStack
from trimlab.planning.tracing import Op, Tracer

FEW = (2, 4)  # items of the passes that the memory of larger ones is worked out from


@dataclass(frozen=True)
class Cost:
    """What a forward pass and, with gradients, its backward pass take.

    Attributes:
        saved: Bytes that the forward pass keeps for the backward pass, its output included.
        forward_peak: Most bytes during the forward pass, above those before it.
        backward_peak: Most bytes during the backward pass, above those before the forward pass.
        forward: Operations of the forward pass.
        backward: Operations of the backward pass.
    """

    saved: int
    forward_peak: int
    backward_peak: int = 0
    forward: Counter[Op] = field(default_factory=Counter)
    backward: Counter[Op] = field(default_factory=Counter)


@dataclass(frozen=True)
class PassSettings:
    """How the passes are computed.

    Attributes:
        dtype: Type of the weights.
        autocast: Type of the products under mixed precision, or None.
        checkpointing: Keep the input of a block only, and compute the block again in the backward
            pass.
        lora_rank: Rank of the adapters that are trained in place of the weights; 0: the weights.
        cuda: Whether they run on a GPU, where the LM head takes more positions at once.
    """

    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    checkpointing: bool = False
    lora_rank: int = 0
    cuda: bool = False


class Passes:
    """Counts passes of a model's blocks and head; equal ones are counted once.

    Args:
        config: The model's config; blocks are taken to be alike.
        settings: How they are computed.
    """

    def __init__(self, config: PreTrainedConfig, settings: PassSettings):
        self.settings = settings
        self._mode = FakeTensorMode()
        self._config = one_block(config)
        self._known: dict[Any, Cost] = {}
        self._stacks: dict[frozenset[Kind], SublayerStack] = {}

    def block(
        self,
        items: int,
        length: int,
        *,
        trained: frozenset[Kind] | None = None,
        tree: bool = False,
        scored: int = 0,
    ) -> Cost:
        """A pass of one block.

        Args:
            items: Items of the batch (B).
            length: Tokens of each (T).
            trained: The sublayers that are trained; None for a pass without gradients.
            tree: Whether the items have choices, and thus a mask of their own.
            scored: Positions at which the MLP is computed, as in the last block; 0: all.
        """
        key = ("block", items, length, trained, tree, scored)
        if key not in self._known:
            with self._model(trained) as stack:
                self._known[key] = self._block(stack, (items, length), trained, tree, scored)
        return self._known[key]

    def block_bytes(self, items: int, length: int, *, scored: int = 0, **options: Any) -> Cost:
        """The bytes of `block`, from passes of few items: they are linear in the items."""
        each = max(1, round(scored / items)) if scored else 0
        few, more = FEW
        if items <= more:
            return self.block(items, length, scored=scored, **options)
        counts = [self.block(n, length, scored=n * each, **options) for n in (few, more)]
        return _extrapolated(counts[0], *counts, factor=(items - few) / (more - few))

    def head(self, items: int, length: int, scored: int, *, trained: bool | None = None) -> Cost:
        """The final norm, and the log-probabilities of scored tokens.

        Args:
            items: Items of the batch (B).
            length: Tokens of each (T).
            scored: Positions on which the LM head runs.
            trained: Whether the head is trained, too; None for a pass without gradients.
        """
        key = ("head", items, length, scored, trained)
        if key not in self._known:
            with self._model(None if trained is None else frozenset()) as stack:
                self._known[key] = self._head(stack, (items, length), scored, trained)
        return self._known[key]

    def head_bytes(
        self, items: int, length: int, scored: int, *, trained: bool | None = None
    ) -> Cost:
        """The bytes of `head`, from passes of few items and positions."""
        few, more = FEW
        rows = 16 * few
        one = self.head(few, length, rows, trained=trained)
        long = _extrapolated(
            one,
            one,
            self.head(more, length, rows, trained=trained),
            factor=(items - few) / (more - few),
        )
        wide = self.head(few, length, 2 * rows, trained=trained)
        return _extrapolated(long, one, wide, factor=(scored - rows) / rows)

    @property
    def rows_per_call(self) -> int:
        """Positions per call of the LM head."""
        return rows_per_call(self._config.vocab_size, self.settings.cuda)

    def head_call(self, positions: int) -> Cost:
        """The first call of the LM head without gradients on so many positions."""
        rows = min(self.rows_per_call, positions)
        return self.head(1, rows, rows)

    # ---- inside -------------------------------------------------------------------------------

    @contextmanager
    def _model(self, trained: frozenset[Kind] | None) -> Iterator[SublayerStack]:
        autocast, kinds = self.settings.autocast, trained or frozenset[Kind]()
        with self._mode:
            stack = self._adapted(kinds) if self.settings.lora_rank else self._adapted(frozenset())
            stack.model.train(trained is not None)
            if not self.settings.lora_rank:
                stack.freeze_all_but(s for s in stack if s.kind in kinds)
            with torch.autocast("cpu", autocast) if autocast else nullcontext():
                yield stack

    def _adapted(self, kinds: frozenset[Kind]) -> SublayerStack:
        """The model of one block, frozen, with adapters in these sublayers; made once."""
        if kinds not in self._stacks:
            model = AutoModelForCausalLM.from_config(self._config, dtype=self.settings.dtype)
            stack = self._stacks[kinds] = SublayerStack(model)
            stack.freeze_all_but([])
            for sublayer in stack:
                for module in stack.modules(sublayer) if sublayer.kind in kinds else []:
                    _add_adapters(module, self.settings.lora_rank)
        return self._stacks[kinds]

    def _block(
        self,
        stack: SublayerStack,
        shape: tuple[int, int],
        trained: frozenset[Kind] | None,
        tree: bool,
        scored: int,
    ) -> Cost:
        block = stack.blocks[0]
        (state, *args), kwargs = _call_of(stack, shape)
        mask = torch.zeros(shape[0], 1, shape[1], shape[1], dtype=self.settings.dtype)
        kwargs["attention_mask"] = mask if tree else None
        state = state.detach().requires_grad_(trained is not None)
        weights = [p for p in block.parameters() if p.requires_grad]
        positions = torch.zeros(scored, dtype=torch.long)

        def forward(state: Tensor) -> Tensor:
            if self.settings.checkpointing and trained is not None:
                again: Any = checkpoint(
                    block, state, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
                )
                return again
            return block(state, *args, **kwargs)

        only = stack.last_mlp_only_at(positions) if scored else nullcontext()
        with only, torch.set_grad_enabled(trained is not None):
            return _count(forward, state, weights)

    def _head(
        self, stack: SublayerStack, shape: tuple[int, int], scored: int, trained: bool | None
    ) -> Cost:
        weight: Any = stack.model.get_output_embeddings().weight  # type: ignore[union-attr]
        weight.requires_grad_(bool(trained))
        state = torch.zeros(*shape, stack.model.config.hidden_size, dtype=self.settings.dtype)
        state.requires_grad_(trained is not None)
        positions = torch.zeros(scored, dtype=torch.long)

        def forward(state: Tensor) -> Tensor:
            rows = stack.final_norm(state).flatten(0, 1)[positions]
            parts = rows.split(self.rows_per_call)
            return torch.cat([self._log_probs(stack, part) for part in parts]).sum()

        with torch.set_grad_enabled(trained is not None):
            return _count(forward, state, [weight] if trained else [])

    def _log_probs(self, stack: SublayerStack, rows: Tensor) -> Tensor:
        """Log-probabilities of one token at each position, as `token_log_probs` has them."""
        logits = stack.head(rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        at_once = len(logits) if self.settings.cuda else CACHED_ROWS
        normalisers = torch.cat([few.logsumexp(-1) for few in logits.split(at_once)])
        index = torch.zeros(len(rows), dtype=torch.long)
        return logits[index, index] - normalisers


def one_block(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the same model with one block."""
    config = copy.deepcopy(config)
    if types := getattr(config, "layer_types", None):
        config.layer_types = types[-1:]  # type: ignore[attr-defined]
    config.num_hidden_layers = 1
    return config


def _extrapolated(base: Cost, less: Cost, more: Cost, factor: float) -> Cost:
    """The bytes of base + factor * (more - less)."""
    terms = zip(_bytes(base), _bytes(less), _bytes(more), strict=True)
    saved, forward, backward = (max(0, round(x + factor * (z - y))) for x, y, z in terms)
    return Cost(saved, forward, backward)


def _bytes(cost: Cost) -> tuple[int, int, int]:
    return cost.saved, cost.forward_peak, cost.backward_peak


def _call_of(
    stack: SublayerStack, shape: tuple[int, int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that the model calls its block with."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = stack.blocks[0].register_forward_pre_hook(
        lambda _module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    # without its sublayers, the block itself costs nothing
    with handle, torch.no_grad(), stack.bypass(*stack):
        stack.hidden(input_ids=torch.zeros(shape, dtype=torch.long))
    return calls[0]


def _count(forward: Any, state: Tensor, weights: Sequence[Tensor]) -> Cost:
    with Tracer() as tracer:
        out = forward(state)
        out = out[0] if isinstance(out, tuple) else out
        saved, peak, ops = tracer.live, tracer.peak, tracer.ops
        if not state.requires_grad:
            return Cost(saved, peak, forward=ops)
        tracer.mark()
        gradient = torch.zeros_like(out)
        gradients = torch.autograd.grad(out, [state, *weights], gradient)
        found = Cost(saved, peak, tracer.peak, ops, tracer.ops)
        del gradients
    return found


class _Adapted(nn.Module):
    """A frozen linear layer and its low-rank adapter."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        dtype = linear.weight.dtype
        self.linear = linear
        self.down = nn.Linear(linear.in_features, rank, bias=False, dtype=dtype)
        self.up = nn.Linear(rank, linear.out_features, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


def _add_adapters(module: nn.Module, rank: int) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, _Adapted(child, rank))
        else:
            _add_adapters(child, rank)

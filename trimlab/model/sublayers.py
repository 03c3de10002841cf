"""The mutable registry of a model's attention and MLP sublayers.

Dropping a sublayer replaces its core by a module that outputs zero and removes its norms, so
`x + f(norm(x))` becomes `x + 0` and the parameters are gone. Bypassing does the same for a while.
The choice of sublayers is made elsewhere.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimlab.errors import InputError
from trimlab.model import kv_cache
from trimlab.model.bypass import NoOp, Replacement, residual_replacement
from trimlab.model.family import Kind, Layout, family_of
from trimlab.model.packing_check import one_text_per_row
from trimlab.model.partial_mlp import only_at


class Sublayer(NamedTuple):
    """One attention or one MLP of a block; sorts in the order of execution.

    Attributes:
        block: Index of the block in the *original* model, from 0.
        kind: `"attention"` or `"mlp"`.
    """

    block: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.block}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> "Sublayer":
        """The inverse of `str()`: `Sublayer.parse("3.mlp")`.

        Raises:
            InputError: The text names no sublayer.
        """
        block, _, kind = text.partition(".")
        if not block.isdecimal() or kind not in ("attention", "mlp"):
            raise InputError(f"{text!r} is no sublayer; write e.g. '3.attention' or '3.mlp'")
        return cls(int(block), kind)


class SublayerStack:
    """The sublayers that a model still has, in the order of execution.

    Iterating gives `Sublayer`s; `len` is N. The model is changed in place and stays an ordinary
    Hugging Face model that can be called, trained and generated from.

    Args:
        model: A decoder language model of a supported family.

    Attributes:
        model: The model itself.
        history: Dropped sublayers, in the order in which they were dropped.
        blocks: The model's blocks, also those without sublayers.
        parallel: Whether attention and MLP of a block read the same input.
        original: The sublayers that the model had at the start.
        model_bytes: Bytes of the whole model at the start, embeddings included.
        bypass_rule: `"residual"` if the residual stream passes a dropped sublayer unchanged, else
            the name of an ablation, which can't be exported.

    Raises:
        InputError: The model type is not supported, or the model has dropped sublayers already.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.family = family_of(model.config)
        self.parallel = self.family.is_parallel(model.config)
        self.blocks: list[nn.Module] = list(model.get_submodule(self.family.blocks))  # type: ignore[arg-type]
        self.history: list[Sublayer] = []
        self.bypass_rule = "residual"
        self._replacement: Replacement = residual_replacement
        if any(isinstance(module, NoOp) for module in model.modules()):
            raise InputError("this model has dropped sublayers already; use the stack that did it")
        everything = [
            Sublayer(block, kind)
            for block in range(len(self.blocks))
            for kind in ("attention", "mlp")
        ]
        self.original: tuple[Sublayer, ...] = tuple(everything)
        self._bytes = {sublayer: _bytes_of(self.modules(sublayer)) for sublayer in everything}
        self.model_bytes = _bytes_of([model])
        model.register_forward_pre_hook(self._provide_cache, with_kwargs=True)

    def __iter__(self) -> Iterator[Sublayer]:
        return (s for s in self.original if not isinstance(self._core(s), NoOp))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def layout(self, sublayer: Sublayer) -> Layout:
        """The names of the sublayer's modules in its block."""
        return self.family.attention if sublayer.kind == "attention" else self.family.mlp

    def modules(self, sublayer: Sublayer) -> list[nn.Module]:
        """The sublayer's modules (norms and core) in forward order."""
        block = self.blocks[sublayer.block]
        return [getattr(block, name) for name in self.layout(sublayer).modules]

    def parameters(self, sublayer: Sublayer) -> Iterator[nn.Parameter]:
        """The sublayer's parameters."""
        return (p for module in self.modules(sublayer) for p in module.parameters())

    # ---- changing the model -------------------------------------------------------------------

    def use_bypass_rule(self, name: str, replacement: Replacement) -> None:
        """Makes later drops and bypasses follow another rule than the residual identity.

        Args:
            name: The new `bypass_rule`.
            replacement: Gives the module in place of each module of a sublayer.

        Raises:
            InputError: Sublayers have been dropped already.
        """
        if self.history:
            raise InputError(
                f"this model has dropped sublayers already, with the {self.bypass_rule} bypass"
            )
        self.bypass_rule, self._replacement = name, replacement

    def drop(self, *sublayers: Sublayer) -> None:
        """Removes sublayers and their parameters for good, and notes them in `history`.

        Replaying a history is `stack.drop(*history)`.

        Raises:
            InputError: A sublayer does not exist, or is gone already.
        """
        with self.bypass(*sublayers):
            pass  # refuses a wrong one before any is dropped
        for sublayer in sublayers:
            self._take_out(sublayer)
            self.history.append(Sublayer(*sublayer))
        self._renumber()

    @contextmanager
    def bypass(self, *sublayers: Sublayer) -> Iterator[None]:
        """Takes sublayers out for the duration of a `with` block, then puts them back."""
        taken: list[tuple[Sublayer, dict[str, nn.Module]]] = []
        try:
            for sublayer in sublayers:
                taken.append((sublayer, self._take_out(sublayer)))
            self._renumber()
            yield
        finally:
            for sublayer, modules in taken:
                for name, module in modules.items():
                    setattr(self.blocks[sublayer.block], name, module)
            self._renumber()

    def freeze_all_but(self, trainable: Iterable[Sublayer], embeddings: bool = False) -> None:
        """Sets `requires_grad` for the sparse update: only these sublayers are trained.

        Args:
            trainable: Sublayers that stay trainable; dropped ones have no parameters left.
            embeddings: Whether embeddings, LM head and final norm are trained too.
        """
        in_a_sublayer = {p for s in self.original for p in self.parameters(s)}
        for parameter in self.model.parameters():
            parameter.requires_grad_(embeddings and parameter not in in_a_sublayer)
        for sublayer in trainable:
            for parameter in self.parameters(sublayer):
                parameter.requires_grad_(True)

    # ---- sizes --------------------------------------------------------------------------------

    def bytes_of(self, *sublayers: Sublayer) -> int:
        """Bytes of the sublayers' parameters (as they were when the stack was made)."""
        return sum(self._bytes[s] for s in sublayers)

    @property
    def layer_memory_ratio(self) -> float:
        """Bytes of the remaining sublayers over bytes of all sublayers, in [0, 1]."""
        return self.bytes_of(*self) / self.bytes_of(*self.original)

    @property
    def model_memory_ratio(self) -> float:
        """Bytes of the whole model (embeddings included) over its bytes at the start."""
        return 1 - self.bytes_of(*set(self.original) - set(self)) / self.model_bytes

    # ---- running it ---------------------------------------------------------------------------

    def hidden(self, **inputs: Any) -> Tensor:
        """Last hidden states, after the final norm and before the LM head.  # (B, T, D)"""
        decoder = self.model.base_model
        with one_text_per_row(self.model.device):
            return decoder(**inputs, use_cache=False).last_hidden_state

    @contextmanager
    def last_mlp_only_at(self, scored_positions: Tensor) -> Iterator[None]:
        """Computes the last sublayer, if it is an MLP, only at the scored positions.

        An MLP does not mix positions, and no module after the last one does. At other positions
        the hidden states lack the output of this MLP.

        Args:
            scored_positions: Indices into batch and time, flattened.  # (U,)
        """
        last = list(self)[-1:]
        if not last or last[0].kind != "mlp":
            yield
            return
        modules = self.modules(last[0])
        with only_at(scored_positions, modules[0], modules[-1]):
            yield

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The final norm and, in some OPT models, a projection.  # (..., D) -> (..., D)"""
        for path in self.family.final_norm:
            module = _get(self.model, path)
            hidden = hidden if module is None else module(hidden)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states.  # (..., D) -> (..., V)"""
        lm_head: Any = self.model.get_output_embeddings()
        logits = lm_head(hidden)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    # ---- inside -------------------------------------------------------------------------------

    def _core(self, sublayer: Sublayer) -> nn.Module:
        return getattr(self.blocks[sublayer.block], self.layout(sublayer).core)

    def _take_out(self, sublayer: Sublayer) -> dict[str, nn.Module]:
        if sublayer not in self._bytes:
            raise InputError(f"the model has no sublayer {sublayer}")
        if isinstance(self._core(sublayer), NoOp):
            raise InputError(f"sublayer {sublayer} is dropped already")
        layout, block = self.layout(sublayer), self.blocks[sublayer.block]
        taken = {name: getattr(block, name) for name in layout.modules}
        for name, module in taken.items():
            empty = self._replacement(sublayer.kind, layout, name, module)
            setattr(block, name, empty.train(block.training))
        return taken

    def _attentions(self) -> list[Sublayer]:
        return [s for s in self if s.kind == "attention"]

    def _renumber(self) -> None:
        kv_cache.renumber(self._core(s) for s in self._attentions())

    def _provide_cache(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        blocks = [s.block for s in self._attentions()]
        if len(blocks) == len(self.blocks):
            return None
        return args, kv_cache.with_cache(kwargs, self.model.config, blocks)


def _get(model: nn.Module, path: str) -> nn.Module | None:
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _bytes_of(modules: Iterable[nn.Module]) -> int:
    # a parameter shared by two modules (tied embeddings) counts once
    parameters = {id(p): p for module in modules for p in module.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model in evaluation mode for the duration of a `with` block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

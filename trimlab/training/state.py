"""What a checkpoint keeps of a `DomainLM`: drops, freezing, and the weights that are trained."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trimlab.errors import InputError
from trimlab.model.authors_bypass import use_authors_bypass
from trimlab.model.sublayers import Sublayer
from trimlab.records.typed import TypedRow

if TYPE_CHECKING:
    from trimlab.training.module import DomainLM


@dataclass(frozen=True, kw_only=True)
class ModuleState(TypedRow):
    """What replays the drops and the freezing of a `DomainLM`.

    Attributes:
        base: The base model.
        fingerprint: Its fingerprint.
        bypass: The bypass rule; earlier checkpoints may lack it.
        history: Dropped sublayers, in order.
        trainable: Trainable sublayers.
        train_embeddings: Whether embeddings, LM head and final norm are trained.
        restarted_at: Optimizer step of the last restart of the schedule.
    """

    base: str
    fingerprint: str
    bypass: str = "residual"
    history: list[str]
    trainable: list[str]
    train_embeddings: bool
    restarted_at: int


def add_state(module: "DomainLM", checkpoint: dict[str, Any]) -> None:
    """Adds the drop history to a checkpoint and leaves out the weights that are frozen.

    Args:
        module: The module.
        checkpoint: Lightning's checkpoint of it.
    """
    trained = _trained(module)
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {k: v for k, v in weights.items() if k in trained}
    state = ModuleState(
        base=module.base,
        fingerprint=module.fingerprint,
        bypass=module.stack.bypass_rule,
        history=[str(s) for s in module.stack.history],
        trainable=[str(s) for s in module.trainable],
        train_embeddings=module.train_embeddings,
        restarted_at=module.restarted_at,
    )
    checkpoint["trimlab"] = state.to_row()


def replay_state(module: "DomainLM", checkpoint: dict[str, Any]) -> None:
    """Replays drops and freezing; the weights are restored after this.

    Args:
        module: A module that has dropped the same or fewer sublayers.
        checkpoint: A checkpoint.

    Raises:
        InputError: The checkpoint is not of trimlab, or of another base model.
    """
    if "trimlab" not in checkpoint:
        raise InputError("this checkpoint was not written by trimlab")
    state = ModuleState.from_row(checkpoint["trimlab"])
    if state.fingerprint != module.fingerprint:
        raise InputError(
            f"this checkpoint was trained from {state.base!r}, whose weights are not those "
            f"of {module.base!r}"
        )
    module.train_embeddings = state.train_embeddings
    module.restarted_at = state.restarted_at
    if state.bypass == "authors":
        use_authors_bypass(module.stack)
    history = [Sublayer.parse(s) for s in state.history]
    if history[: len(module.stack.history)] != module.stack.history:
        raise InputError("this checkpoint has dropped other sublayers than the model")
    module.stack.drop(*history[len(module.stack.history) :])
    trainable = [Sublayer.parse(s) for s in state.trainable]
    if not set(trainable).issubset(module.stack.original):
        raise InputError("this checkpoint is damaged: it trains what the model does not have")
    module.freeze_all_but(trainable)
    if _trained(module) != _shapes(checkpoint.get("state_dict")):
        raise InputError("this checkpoint is damaged: its weights are not those it names")


def fingerprint(model: nn.Module) -> str:
    """Short hash of names, shapes and a few values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        sample = parameter.detach().flatten()[:8].to("cpu", torch.float64).tolist()
        digest.update(f"{name} {tuple(parameter.shape)} {sample}".encode())
    return digest.hexdigest()[:16]


def _trained(module: "DomainLM") -> dict[str, torch.Size]:
    """Names and shapes of the trained weights in a checkpoint of the module."""
    named = module.model.named_parameters()
    return {f"model.{name}": p.shape for name, p in named if p.requires_grad}


def _shapes(weights: Any) -> dict[str, torch.Size | None]:
    """Names and shapes of the weights that a checkpoint holds."""
    named = weights.items() if isinstance(weights, dict) else ()
    return {name: w.shape if isinstance(w, torch.Tensor) else None for name, w in named}

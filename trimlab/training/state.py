"""What a checkpoint keeps of a `DomainLM`: drops, freezing, and the weights that are trained."""

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trimlab.errors import InputError
from trimlab.model.authors_bypass import use_authors_bypass
from trimlab.model.sublayers import Sublayer

if TYPE_CHECKING:
    from trimlab.training.module import DomainLM


def add_state(module: "DomainLM", checkpoint: dict[str, Any]) -> None:
    """Adds the drop history to a checkpoint and leaves out the weights that are frozen.

    Args:
        module: The module.
        checkpoint: Lightning's checkpoint of it.
    """
    trained = _trained(module)
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {k: v for k, v in weights.items() if k in trained}
    checkpoint["trimlab"] = {
        "base": module.base,
        "fingerprint": module.fingerprint,
        "bypass": module.stack.bypass_rule,
        "history": [str(s) for s in module.stack.history],
        "trainable": [str(s) for s in module.trainable],
        "train_embeddings": module.train_embeddings,
        "restarted_at": module.restarted_at,
    }


def replay_state(module: "DomainLM", checkpoint: dict[str, Any]) -> None:
    """Replays drops and freezing; the weights are restored after this.

    Args:
        module: A module that has dropped the same or fewer sublayers.
        checkpoint: A checkpoint.

    Raises:
        InputError: The checkpoint is not of trimlab, or of another base model.
    """
    state = checkpoint.get("trimlab")
    if state is None:
        raise InputError("this checkpoint was not written by trimlab")
    if state["fingerprint"] != module.fingerprint:
        raise InputError(
            f"this checkpoint was trained from {state['base']!r}, whose weights are not those "
            f"of {module.base!r}"
        )
    module.train_embeddings = state["train_embeddings"]
    module.restarted_at = state["restarted_at"]
    if state.get("bypass") == "authors":
        use_authors_bypass(module.stack)
    history = [Sublayer.parse(s) for s in state["history"]]
    if history[: len(module.stack.history)] != module.stack.history:
        raise InputError("this checkpoint has dropped other sublayers than the model")
    module.stack.drop(*history[len(module.stack.history) :])
    module.freeze_all_but(Sublayer.parse(s) for s in state["trainable"])
    if _trained(module) != set(checkpoint["state_dict"]):
        raise InputError("this checkpoint is damaged: its weights are not those it names")


def fingerprint(model: nn.Module) -> str:
    """Short hash of names, shapes and a few values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        sample = parameter.detach().flatten()[:8].to("cpu", torch.float64).tolist()
        digest.update(f"{name} {tuple(parameter.shape)} {sample}".encode())
    return digest.hexdigest()[:16]


def _trained(module: "DomainLM") -> set[str]:
    """Names of the trained weights in a checkpoint of the module."""
    return {f"model.{name}" for name, p in module.model.named_parameters() if p.requires_grad}

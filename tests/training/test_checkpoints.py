"""Checkpoints that hold something else than they should."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer
from trimlab.training.checkpoints import restore
from trimlab.training.module import DomainLM


def test_what_a_checkpoint_holds_is_checked_before_it_is_used(base: Path, tmp_path: Path) -> None:
    module = DomainLM(str(base))
    module.freeze_all_but([Sublayer(2, "mlp")])
    fresh = copy.deepcopy(module)
    module.drop(Sublayer(0, "attention"))
    state: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(state)
    file = tmp_path / "last.ckpt"
    torch.save(state, file)
    restored = copy.deepcopy(fresh)
    restore(restored, file)
    assert restored.stack.history == [Sublayer(0, "attention")]

    name = next(iter(state["state_dict"]))
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda s: s["state_dict"].update({name: torch.zeros(2)}),
        lambda s: s["state_dict"].update({name: "weights"}),
        lambda s: s["state_dict"].pop(name),
        lambda s: s.pop("state_dict"),
        lambda s: s["trimlab"].pop("history"),
        lambda s: s["trimlab"].update(history="0.attention"),
        lambda s: s["trimlab"].update(trainable=[["2.mlp"]]),
        lambda s: s["trimlab"].update(trainable=["9.mlp"]),
        lambda s: s.update(trimlab=None),
    ]
    for change in changes:
        changed = copy.deepcopy(state)
        change(changed)
        torch.save(changed, file)
        with pytest.raises(InputError):
            restore(copy.deepcopy(fresh), file)
    torch.save([state], file)
    with pytest.raises(InputError, match="not written by trimlab"):
        restore(fresh, file)

"""Resume checkpoints."""

import copy
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzzing._mutation import mutated_bytes, mutated_value
from tests.fuzzing._target import Attempt
from tests.tiny import tiny_folder
from trimlab.model.sublayers import Sublayer
from trimlab.training.checkpoints import restore
from trimlab.training.module import DomainLM


def prepare(folder: Path) -> Attempt:
    """Mutates the checkpoint of a trimmed tiny model: its bytes, or what it holds."""
    module = DomainLM(str(tiny_folder(folder)))
    module.freeze_all_but([Sublayer(2, "mlp"), Sublayer(3, "attention")])
    fresh = copy.deepcopy(module)
    module.drop(Sublayer(0, "attention"), Sublayer(1, "mlp"))
    state: dict[str, Any] = {"state_dict": module.state_dict(), "epoch": 1, "callbacks": {}}
    module.on_save_checkpoint(state)
    file = folder / "last.ckpt"
    torch.save(state, file)
    content = file.read_bytes()

    def attempt(random: Random) -> None:
        if random.random() < 0.5:
            file.write_bytes(mutated_bytes(random, content))
        else:
            torch.save(mutated_value(random, state), file)
        restore(copy.deepcopy(fresh), file)

    return attempt

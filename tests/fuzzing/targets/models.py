"""Model folders: configs, tokenizers and weights."""

import json
import shutil
from pathlib import Path
from random import Random

from tests.fuzzing._mutation import mutated_bytes, mutated_value
from tests.fuzzing._target import Attempt
from tests.tiny import tiny_folder
from trimlab.model.family import FAMILIES
from trimlab.model.loading import base_dtype, load_model
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import plugin_names


def prepare(folder: Path) -> Attempt:
    """Mutates one file of a tiny model of any family."""
    valid = [tiny_folder(folder, family) for family in plugin_names(FAMILIES)]
    copied = folder / "mutated"

    def attempt(random: Random) -> None:
        source = random.choice(valid)
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(source, copied)
        file = random.choice(sorted(copied.iterdir()))
        content = file.read_bytes()
        if file.suffix == ".json" and random.random() < 0.7:
            content = json.dumps(mutated_value(random, json.loads(content))).encode()
        elif file.suffix == ".safetensors" and random.random() < 0.5:  # in its header
            content = mutated_bytes(random, content[:2048]) + content[2048:]
        else:
            content = mutated_bytes(random, content)
        file.write_bytes(content)
        base_dtype(str(copied))
        model, _ = load_model(str(copied))
        SublayerStack(model)

    return attempt

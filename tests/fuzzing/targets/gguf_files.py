"""GGUF files: the vocabulary of an embedded model, and the parts that it is joined from."""

from pathlib import Path
from random import Random

from tests.fuzzing._mutation import mutated_bytes
from tests.fuzzing._target import Attempt
from tests.model.conftest import write_tiny_gguf
from trimlab.model.embedded import embedded_model, join_parts
from trimlab.model.gguf_tokens import read_gguf_tokens


def prepare(folder: Path) -> Attempt:
    """Mutates a tiny file, mostly in front of its weights."""
    file = folder / "model.gguf"
    write_tiny_gguf(file)
    content, model = file.read_bytes(), embedded_model("gemma-3-270m")

    def attempt(random: Random) -> None:
        head = random.choice((1000, 4000, len(content)))
        changed = mutated_bytes(random, content[:head]) + content[head:]
        file.write_bytes(changed)
        if random.random() < 0.1:
            join_parts([file], folder / "joined.gguf", model)
        read_gguf_tokens(file)

    return attempt

"""Config files of `trimlab fit` and experiment files of `trimlab sweep`."""

from pathlib import Path
from random import Random

import yaml

from tests.fuzzing._mutation import mutated_bytes, mutated_value
from tests.fuzzing._target import Attempt
from trimlab.files import read_yaml
from trimlab.runs.config import Resolver, _present
from trimlab.runs.plan import plan

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
PROFILE = "smollm2-135m"


def prepare(folder: Path) -> Attempt:
    """Mutates the shipped files."""
    texts = {path: path.read_text() for path in sorted(EXPERIMENTS.glob("*.yaml"))}
    (folder / "profiles").mkdir()
    profile = folder / "profiles" / f"{PROFILE}.yaml"
    of_profile = (EXPERIMENTS / "profiles" / profile.name).read_text()
    profile.write_text(of_profile)
    resolver, file = Resolver(), folder / "config.yaml"

    def attempt(random: Random) -> None:
        text = random.choice(list(texts.values()))
        file.write_bytes(_mutated(random, text))
        if "\nruns:" in text and random.random() < 0.1:  # each of its runs is resolved
            plan(file, PROFILE)
        elif random.random() < 0.5:
            resolver(read_yaml(file))
        else:
            parsed = resolver.parser.parse_args(_present(["--config", str(file)]))
            resolver.complete(parsed)

    return attempt


def _mutated(random: Random, text: str) -> bytes:
    if random.random() < 0.5:
        return mutated_bytes(random, text.encode())
    return yaml.safe_dump(mutated_value(random, yaml.safe_load(text))).encode()

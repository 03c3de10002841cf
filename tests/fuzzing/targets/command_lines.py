"""Command lines: options left out, given twice, with other values and in other places."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzzing._mutation import VALUES
from tests.fuzzing._target import Attempt
from tests.tiny import letters_domain, tiny_folder
from trimlab.runs.config import FitCLI, Resolver

# of options that would start other devices or processes, or import what they name
LEFT_OUT = ("trainer.", "wandb.", "config", "optimizer", "lr_scheduler", "model.compile")


def prepare(folder: Path) -> Attempt:
    """Mutates commands on a tiny model that write nothing."""
    base, root = tiny_folder(folder), letters_domain(folder / "rows")
    data = ["--data.task", "jsonl", "--data.root", str(root), "--data.test_rows", "4"]
    commands = {
        "fit": ["--model.base", str(base), *data, "--trainer.accelerator", "cpu"],
        "eval": [str(base), "--tasks", "jsonl", *data[2:], "--json"],
        "data": ["check", "--model", str(base), *data],
        "plan": ["--model.base", str(base), *data, "--machine", "h100", "--tokens", "20"],
    }
    options = [name for name, _ in Resolver().parser.get_defaults().items() if _is_safe(name)]

    def attempt(random: Random) -> None:
        verb = random.choice(list(commands))
        arguments = _mutated(random, commands[verb], options)
        if verb == "fit":
            FitCLI(arguments).make_run()  # up to what would make its folder
        else:
            importlib.import_module(f"trimlab.commands.{verb}").run(arguments)

    return attempt


def _is_safe(name: str) -> bool:
    return not name.startswith(LEFT_OUT)


def _mutated(random: Random, arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    changed = list(arguments)
    for _ in range(random.choice((1, 1, 2, 3))):
        place, kind = random.randrange(len(changed)), random.randrange(5)
        if kind == 0 and len(changed) > 1:
            del changed[place]
        elif kind == 1:
            changed[place] = _text(random)
        elif kind == 2:
            changed.insert(place, random.choice(changed))
        else:
            changed += [f"--{random.choice(options)}", _text(random)]
    return changed


def _text(random: Random) -> str:
    value: Any = random.choice(VALUES)
    text = value if isinstance(value, str) else repr(value)
    return text.replace("\0", "").encode("utf-8", "replace").decode()  # a shell passes on no others

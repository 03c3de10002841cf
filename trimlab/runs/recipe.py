"""Recipes: what is trained, by which loss, and how a score is made.

A recipe is one YAML file in `recipes/` with options of `trimlab fit`. They take the place of the
options' own defaults: configs and the command line stand above them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from trimlab.errors import InputError
from trimlab.records.rows import JsonObject

RECIPES = Path(__file__).with_name("recipes")
DEFAULT_RECIPE = "fine_tuned_first"


def recipe_names() -> list[str]:
    """Names of the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: Any) -> JsonObject:
    """The options of a recipe, in sections.

    Args:
        name: A file in `recipes/`, such as `paper`.

    Raises:
        InputError: There is no such recipe.
    """
    if name not in recipe_names():
        raise InputError(f"no recipe {name!r}; there are {', '.join(recipe_names())}")
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def options_text(name: str) -> str:
    """The options of a recipe in a few words, for help texts."""
    sections = load_recipe(name).items()
    found = [f"{section}.{k} {v}" for section, options in sections for k, v in options.items()]
    return ", ".join(found) or "these defaults"


def with_recipe(config: JsonObject) -> JsonObject:
    """A config above its recipe, which it names or which is the default."""
    return merged(load_recipe(config.get("recipe", DEFAULT_RECIPE)), config)


def recipe_arguments(arguments: Sequence[str], configs: Sequence[JsonObject]) -> list[str]:
    """Arguments of `trimlab fit` that stand for its recipe, to be put in front of the others.

    Args:
        arguments: The arguments of the command line.
        configs: The configs among them.
    """
    name: Any = DEFAULT_RECIPE
    for config in configs:
        name = config.get("recipe", name)
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--recipe" and (equals or i + 1 < len(arguments)):
            name = value if equals else arguments[i + 1]
    options = load_recipe(name)
    return ["--config", yaml.safe_dump(options, sort_keys=False)] if options else []


def merged(*configs: JsonObject) -> JsonObject:
    """Configs over one another: of two values of a key the later one stays."""
    result: JsonObject = {}
    for config in configs:
        for key, value in config.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                value = merged(result[key], value)
            result[key] = value
    return result

"""Every recipe file: its options stand below a config, and above the options' own defaults."""

import shutil
from pathlib import Path

import pytest
import yaml

from trimlab.errors import InputError
from trimlab.runs.config import FitCLI, Resolver
from trimlab.runs.recipe import (
    DEFAULT_RECIPE,
    RECIPES,
    load_recipe,
    merged,
    recipe_names,
    with_recipe,
)
from trimlab.runs.run_id import run_id

GIVEN = {"trim": {"target_layer_memory": 0.5}}


@pytest.fixture(scope="module")
def resolve() -> Resolver:
    return Resolver()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_its_options_written_out(resolve: Resolver, name: str) -> None:
    options = merged(load_recipe(name), GIVEN)
    found = resolve({"recipe": name, **GIVEN})
    assert found == resolve({"recipe": "paper", **options})
    assert run_id(found) == run_id(resolve({"recipe": "paper", **options}))
    # whoever opens the file reads what it is for
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")


def test_the_recipe_of_the_paper_changes_no_default(resolve: Resolver) -> None:
    found = resolve({"recipe": "paper", **GIVEN})["trim"]
    assert (found["scorer"], found["r"], found["drops_per_step"]) == ("two_step", 0.25, 1)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A further recipe."""
    folder = shutil.copytree(RECIPES, tmp_path / "recipes")
    (folder / "half.yaml").write_text("trim: {r: 0.5, drops_per_step: [2, 1]}\nmodel: {lr: 1e-3}")
    monkeypatch.setattr("trimlab.runs.recipe.RECIPES", folder)
    return "half"


@pytest.mark.filterwarnings("ignore:LightningCLI.s args parameter")
def test_configs_and_the_command_line_stand_above_a_recipe(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"recipe": recipe, "trim": {"drops_per_step": 3}}))

    def options(*arguments: str) -> tuple[object, object, object]:
        config = Parsed(list(arguments)).config
        return config["trim"]["r"], config["trim"]["drops_per_step"], config["model"]["lr"]

    assert options("--recipe", recipe) == (0.5, [2, 1], 1e-3)
    assert options("--config", str(file)) == (0.5, 3, 1e-3)
    assert options(f"--config={file}", "--trim.r", "1") == (1.0, 3, 1e-3)
    assert options("--config", str(file), "--recipe=paper") == (0.25, 3, 1e-4)


def test_without_a_name_the_default_is_meant(resolve: Resolver) -> None:
    assert resolve(GIVEN) == resolve({"recipe": DEFAULT_RECIPE, **GIVEN})
    assert resolve(GIVEN) != resolve({"recipe": "paper", **GIVEN})


class Parsed(FitCLI):
    """A parsed command line, of which nothing is made."""

    def instantiate_classes(self) -> None:
        """Makes nothing."""


def test_a_recipe_that_does_not_exist_is_named(resolve: Resolver) -> None:
    with pytest.raises(InputError, match=r"no recipe 'papr'; there are .*paper"):
        resolve({"recipe": "papr", **GIVEN})
    with pytest.raises(InputError, match="no recipe"):
        with_recipe({"recipe": ["paper"]})

"""Plug-ins are found by the names of their files, and by nothing else."""

import sys
from pathlib import Path

import pytest

from trimlab.errors import InputError
from trimlab.plugins import (
    from_a_clone,
    hyphenated_module,
    hyphenated_names,
    plugin_class,
    plugin_module,
    plugin_names,
)


class Animal:
    """What the plug-ins of these tests are."""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two plug-ins and a file that they share."""
    folder = tmp_path / "trimlab_test_zoo"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_feet.py").write_text("COUNT = 4\n")
    animal = f"from {__name__} import Animal\n"
    (folder / "cat.py").write_text(f"{animal}class _Kitten(Animal): ...\nclass Cat(Animal): ...\n")
    (folder / "stone.py").write_text(animal)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_names_are_those_of_the_files(zoo: Path) -> None:
    assert plugin_names("trimlab_test_zoo") == ["cat", "stone"]
    (zoo / "dog.py").write_text("")
    assert plugin_names("trimlab_test_zoo") == ["cat", "dog", "stone"]


def test_a_plugin_is_the_public_class_that_its_file_defines(zoo: Path) -> None:
    module = plugin_module("trimlab_test_zoo", "cat", "animal")
    assert plugin_class(module, Animal).__name__ == "Cat"


def test_a_file_without_the_class_says_what_it_must_define(zoo: Path) -> None:
    module = plugin_module("trimlab_test_zoo", "stone", "animal")
    with pytest.raises(TypeError, match="must define one public subclass of Animal"):
        plugin_class(module, Animal)


@pytest.mark.parametrize("name", ["unicorn", "_feet", "", "cat.Cat"])
def test_an_unknown_name_lists_the_known_ones(zoo: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no animal '{name}'; there are cat, stone, or draw one"):
        plugin_module("trimlab_test_zoo", name, "animal", hint=", or draw one")


def test_hyphens_stand_for_underscores(zoo: Path) -> None:
    (zoo / "sea_cat.py").write_text("LEGS = 0\n")
    assert hyphenated_names("trimlab_test_zoo") == ["cat", "sea-cat", "stone"]
    assert hyphenated_module("trimlab_test_zoo", "sea-cat", "animal").LEGS == 0
    with pytest.raises(InputError, match="no animal 'sea_cat'; there are cat, sea-cat, stone!"):
        hyphenated_module("trimlab_test_zoo", "sea_cat", "animal", hint="!")


def test_what_only_a_clone_has_is_named(zoo: Path) -> None:
    with pytest.raises(InputError, match="its folder `nosuch` is not there"):
        from_a_clone("nosuch.module")
    (zoo / "needy.py").write_text("import trimlab_nosuch_library\n")
    with pytest.raises(InputError, match=r"pip install 'trimlab\[trimlab_test_zoo\]'"):
        from_a_clone("trimlab_test_zoo.needy")

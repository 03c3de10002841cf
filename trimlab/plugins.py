"""Plug-ins: one file each, registered by the name of the file.

A scorer, a loss, a task, a model family, a benchmark, an export format, a baseline or a verb is a
file in the folder of its kind. A file whose name begins with an underscore holds what the plug-ins
beside it share, and is none itself.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from trimlab.errors import InputError


def plugin_names(package: str) -> list[str]:
    """The plug-ins of a package: the names of its files.

    Args:
        package: Dotted name of the package, such as `trimlab.scorers`.
    """
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def plugin_module(package: str, name: str, kind: str, hint: str = "") -> ModuleType:
    """Imports a plug-in.

    Args:
        package: Dotted name of the package.
        name: Name of the file.
        kind: What a plug-in of this package is called in the error message.
        hint: What the error message says after the names of the plug-ins.

    Raises:
        InputError: There is no such file.
    """
    _check(name, plugin_names(package), kind, hint)
    return importlib.import_module(f"{package}.{name}")


def hyphenated_names(package: str) -> list[str]:
    """The plug-ins of a package whose names have `-` where those of the files have `_`.

    Args:
        package: Dotted name of the package.
    """
    return [name.replace("_", "-") for name in plugin_names(package)]


def hyphenated_module(package: str, name: str, kind: str, hint: str = "") -> ModuleType:
    """Imports one of them.

    Args:
        package: Dotted name of the package.
        name: One of `hyphenated_names(package)`.
        kind: What a plug-in of this package is called in the error message.
        hint: What the error message says after the names of the plug-ins.

    Raises:
        InputError: There is no such file.
    """
    _check(name, hyphenated_names(package), kind, hint)
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


def _check(name: str, names: list[str], kind: str, hint: str) -> None:
    if name not in names:
        raise InputError(f"no {kind} {name!r}; there are {', '.join(names)}{hint}")


def plugin_class(module: ModuleType, base: type) -> type[Any]:
    """The one public subclass that the file of a plug-in defines.

    Args:
        module: The imported file.
        base: What it must be a subclass of.

    Raises:
        TypeError: The file defines none, or several.
    """
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__} must define one public subclass of {base.__name__}, "
            f"and it defines {len(found)}"
        )
    return found[0]


def from_a_clone(name: str) -> Any:
    """Imports a module of the repository that the package does not ship.

    Args:
        name: Its dotted name; `analysis` and `baselines` are also names of extras.

    Raises:
        InputError: There is no clone of the repository, or a library of the extra is missing.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name in (package, name):
            raise InputError(
                f"this needs a clone of the repository: its folder `{package}` is not there"
            ) from error
        raise InputError(
            f"{error.name} is not installed: pip install 'trimlab[{package}]'"
        ) from error

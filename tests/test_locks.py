"""constraints.txt and tools.txt hold what pyproject.toml asks for: else run `make lock`."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """The versions of a lock, with the sha256 of their files."""
    text = (REPOSITORY / name).read_text().replace("\\\n", "")
    lines = [line.split("--hash=sha256:") for line in text.splitlines() if line[0] != "#"]
    return [(Requirement(pin), [digest.strip() for digest in found]) for pin, *found in lines]


def of_extra(name: str, extras: dict[str, list[str]]) -> Iterator[Requirement]:
    for requirement in map(Requirement, extras[name]):
        if requirement.name == PROJECT["project"]["name"]:
            for extra in requirement.extras:
                yield from of_extra(extra, extras)
        else:
            yield requirement


def wanted(name: str) -> list[Requirement]:
    project: dict[str, Any] = PROJECT["project"]
    if name == "tools.txt":
        own = PROJECT["build-system"]["requires"] + PROJECT["dependency-groups"]["tools"]
        return [Requirement(text) for text in own]
    own = [Requirement(text) for text in project["dependencies"]]
    return [*own, *of_extra("all", project["optional-dependencies"])]


@pytest.mark.parametrize("name", ["constraints.txt", "tools.txt"])
def test_a_lock_has_a_fitting_version_of_everything_with_hashes(name: str) -> None:
    versions: dict[str, list[str]] = {}
    for pin, digests in locked(name):
        (version,) = pin.specifier
        assert version.operator == "==", pin
        assert digests and all(re.fullmatch("[0-9a-f]{64}", d) for d in digests), pin
        versions.setdefault(canonicalize_name(pin.name), []).append(version.version)
    assert versions
    for requirement in wanted(name):
        found = versions.get(canonicalize_name(requirement.name), [])
        assert any(requirement.specifier.contains(v) for v in found), f"make lock: {requirement}"

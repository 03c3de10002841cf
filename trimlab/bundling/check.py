"""Checks an environment: `python -m trimlab.bundling.check requirements.txt`.

Runs on the machine that a bundle is unpacked on. What the requirements name, and what trimlab
itself requires, must be there in a fitting version and must be importable.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from trimlab.bundling.machine import Machine
from trimlab.bundling.wheels import requirements_of
from trimlab.errors import InputError, one_line
from trimlab.files import read_text


def problems(requirements: Sequence[Requirement]) -> Iterator[str]:
    """What is wrong with this environment, a sentence each.

    Args:
        requirements: What must be there. Those of trimlab, and of its extras, are followed.
    """
    modules: dict[str, list[str]] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            modules.setdefault(canonicalize_name(name), []).append(module)
    seen = set()
    left = list(requirements)
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} is missing ({requirement} is needed)"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{name} is {version}, and {requirement} is needed"
            continue
        if name == "trimlab":
            about = metadata.distribution(name).read_text("METADATA") or ""
            left += requirements_of(about.encode(), requirement, Machine())
        for module in modules.get(name, []):
            if module.isidentifier() and not module.startswith("_"):
                try:
                    importlib.import_module(module)
                except Exception as error:
                    yield f"{module} of {name} {version} cannot be imported: {one_line(error)}"


def main(path: str) -> int:
    """Prints what is wrong; 0 if nothing is, else 1."""
    try:
        requirements = [Requirement(line) for line in read_text(Path(path)).splitlines()]
    except (InputError, InvalidRequirement) as error:
        print(f"unbundle: {path} is damaged: {one_line(error)}", file=sys.stderr)
        return 1
    found = list(problems(requirements))
    for problem in found:
        print(f"unbundle: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

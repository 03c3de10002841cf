"""The wheels that a machine lacks.

pip resolves for the interpreter that it runs in: it knows neither what another machine has nor the
values of markers there. So the requirements are followed here, and pip fetches the wheels, with the
user's own index settings. Nothing is backtracked: of every package the newest version is taken that
all requirements known by then allow.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from trimlab.bundling.machine import Machine
from trimlab.errors import InputError
from trimlab.model.wheels import run_pip


@dataclass
class Packed:
    """What was packed.

    Attributes:
        wheels: The wheel of each package, by canonical name.
        notes: Sentences for the user.
    """

    wheels: dict[str, Path]
    notes: list[str] = field(default_factory=list)

    def add(self, wheels: Sequence[Path]) -> None:
        """Adds wheels; another version of the same package is removed."""
        for wheel in wheels:
            name = parse_wheel_filename(wheel.name)[0]
            if self.wheels.get(name, wheel) != wheel:
                self.wheels[name].unlink()
            self.wheels[name] = wheel


def fetch_wheels(own: Path, requirements: Sequence[Requirement], machine: Machine) -> Packed:
    """Fetches the wheels of requirements, and of what they require, that a machine lacks.

    Args:
        own: A wheel at hand, that of trimlab. The others go to its folder.
        requirements: What the machine must have in the end.
        machine: The machine; what it has in a fitting version is not fetched.

    Raises:
        InputError: pip is not there, or finds no wheel for the machine.
    """
    packed = Packed({parse_wheel_filename(own.name)[0]: own})
    wanted, seen = dict[str, Requirement](), set[str]()
    level = list(requirements)
    while level:
        missing = dict[str, Requirement]()
        known = list[tuple[Requirement, bytes]]()  # what need not be fetched, with its METADATA
        for requirement in level:
            if str(requirement) in seen:
                continue
            seen.add(str(requirement))
            name = canonicalize_name(requirement.name)
            merged = _merged(missing.get(name) or wanted.get(name), requirement)
            if name in packed.wheels and _fits(requirement, packed.wheels[name]):
                wanted[name] = merged
                known.append((requirement, metadata(packed.wheels[name])))
            elif not _is_there(requirement, machine):
                missing[name] = merged
            elif requirement.extras:  # the machine has the package, and perhaps not its extras
                if (text := _local_metadata(name, machine)) is not None:
                    known.append((requirement, text))
                else:
                    missing[name] = _pinned(merged, machine)
        packed.add(_download(list(missing.values()), machine, own.parent))
        wanted |= missing
        known += [(missing[name], metadata(packed.wheels[name])) for name in missing]
        level = [needed for of, text in known for needed in requirements_of(text, of, machine)]
    for name, path in packed.wheels.items():
        version = machine.have.get(name)
        if version not in (None, parse_wheel_filename(path.name)[1]):
            packed.notes.append(f"the machine's {name} {version} does not fit; {path.name} will")
    return packed


def requirements_of(metadata: bytes, of: Requirement, machine: Machine) -> Iterator[Requirement]:
    """What a package requires on a machine.

    Args:
        metadata: Its METADATA.
        of: The requirement that it fulfils, whose extras count.
        machine: The machine.
    """
    environment = machine.environment()
    for text in message_from_bytes(metadata).get_all("Requires-Dist") or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate(environment | {"extra": extra})
            for extra in (of.extras or {""})
        ):
            requirement.marker = None
            yield requirement


def _merged(earlier: Requirement | None, later: Requirement) -> Requirement:
    """Two requirements of the same package as one."""
    merged = Requirement(str(later))
    if earlier is not None:
        merged.extras = earlier.extras | later.extras
        merged.specifier = earlier.specifier & later.specifier
    return merged


def _fits(requirement: Requirement, wheel: Path) -> bool:
    version = parse_wheel_filename(wheel.name)[1]
    return requirement.specifier.contains(version, prereleases=True)


def _is_there(requirement: Requirement, machine: Machine) -> bool:
    """Whether the machine has a package in a fitting version, whatever the extras."""
    name = canonicalize_name(requirement.name)
    if name not in machine.have:
        return False
    version = machine.have[name]
    return version is None or requirement.specifier.contains(version, prereleases=True)


def _local_metadata(name: str, machine: Machine) -> bytes | None:
    """The METADATA of what the machine has, if the same version is installed here."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    text = found.read_text("METADATA")
    return text.encode() if text and found.version == str(machine.have[name]) else None


def _pinned(requirement: Requirement, machine: Machine) -> Requirement:
    """The requirement for the very version that the machine has, as far as it is known."""
    version = machine.have[canonicalize_name(requirement.name)]
    if version is not None:
        requirement.specifier &= SpecifierSet(f"=={version.public}")
    return requirement


def metadata(wheel: Path) -> bytes:
    """The METADATA of a wheel."""
    with ZipFile(wheel) as archive:
        path = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(path)


def _download(requirements: Sequence[Requirement], machine: Machine, folder: Path) -> list[Path]:
    """Fetches one wheel for each requirement; the wheels."""
    if not requirements:
        return []
    print("fetching", ", ".join(map(str, requirements)), file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        options = ["--no-deps", "-d", fresh, *machine.pip_options()]
        if run_pip("download", *options, *map(str, requirements)) is not None:
            for requirement in requirements:
                problem = run_pip("download", *options, str(requirement))
                if problem is not None and not _built(requirement, Path(fresh)):
                    raise InputError(f"no wheel of {requirement} for {machine}: {problem}")
        return [Path(shutil.move(w, folder / w.name)) for w in sorted(Path(fresh).glob("*.whl"))]


def _built(requirement: Requirement, folder: Path) -> bool:
    """Builds a wheel where the index has the source alone; whether it runs on any machine."""
    with tempfile.TemporaryDirectory(dir=folder) as built:
        if run_pip("wheel", "--no-deps", "-w", built, str(requirement)) is not None:
            return False
        wheels = list(Path(built).glob("*-none-any.whl"))
        for wheel in wheels:
            shutil.move(wheel, folder / wheel.name)
        return bool(wheels)

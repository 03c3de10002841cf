"""The machine that a bundle is for: its Python, its platform, and the packages that it has."""

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from trimlab.errors import InputError
from trimlab.files import read_text

_PYTHON = re.compile(r"3\.\d+")
_PLATFORM = re.compile(
    r"(?P<family>manylinux|musllinux|linux)"
    r"(?P<glibc>_(?P<major>\d+)_(?P<minor>\d+)|1|2010|2014)?_(?P<arch>[a-z]\w*)"
)
# other names of the oldest glibc versions
_ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST = 5  # minor version of the oldest glibc that wheels are made for


@dataclass(frozen=True)
class Machine:
    """The machine that a bundle is for.

    Attributes:
        python: Its Python, such as `3.12`; by default this one.
        platforms: Platforms of wheels that it can use; none for those of this machine.
        have: The packages that it has: their versions, None where the version is not known.
    """

    python: str = "{}.{}".format(*sys.version_info)
    platforms: tuple[str, ...] = ()
    have: Mapping[str, Version | None] = field(default_factory=dict)

    def __post_init__(self):
        """Checks the Python and the platforms.

        Raises:
            InputError: One of them is no such thing.
        """
        if not _PYTHON.fullmatch(self.python):
            raise InputError(f"--python must be a version such as 3.12, not {self.python!r}")
        for name in self.platforms:
            if not _PLATFORM.fullmatch(name):
                raise InputError(
                    f"--platform {name} is no platform of Linux wheels; one is "
                    "manylinux_2_28_x86_64 (2.28: the glibc of the machine, from `ldd --version`)"
                )

    def environment(self) -> dict[str, str]:
        """Values of the markers of requirements (`python_version < "3.12"`) on that machine."""
        environment: dict[str, Any] = dict(default_environment())
        here = environment["python_version"] == self.python
        environment |= {"python_version": self.python, "extra": ""}
        if not here:
            environment["python_full_version"] = f"{self.python}.0"
        if self.platforms:
            found = _PLATFORM.fullmatch(self.platforms[0])
            assert found is not None
            environment |= {
                "os_name": "posix",
                "sys_platform": "linux",
                "platform_system": "Linux",
                "platform_machine": found["arch"],
            }
        return environment

    def pip_options(self) -> list[str]:
        """The options of `pip download` that name the machine.

        pip takes a platform to the letter: the older ones, which the machine can use as well, are
        named, too.
        """
        tags = dict.fromkeys(tag for name in self.platforms for tag in _usable(name))
        return [
            *("--only-binary", ":all:", "--python-version", self.python),
            *("--implementation", "cp"),
            *(argument for tag in tags for argument in ("--platform", tag)),
        ]

    def __str__(self) -> str:
        where = ", ".join(self.platforms) or f"{platform.system()} {platform.machine()}"
        return f"Python {self.python}, {where}"


def _usable(name: str) -> list[str]:
    """A platform and the older ones whose wheels run on it."""
    found = _PLATFORM.fullmatch(name)
    assert found is not None
    if found["family"] != "manylinux" or found["minor"] is None:
        return [name]
    tags = []
    for minor in range(int(found["minor"]), _OLDEST - 1, -1):
        tags.append(f"manylinux_2_{minor}_{found['arch']}")
        if alias := _ALIASES.get(minor):
            tags.append(f"{alias}_{found['arch']}")
    return tags


def read_have(path: Path) -> dict[str, Version | None]:
    """The packages of a machine, from what pip lists there.

    Args:
        path: What `pip list --format=freeze` or `pip freeze` printed on the machine.

    Returns:
        Versions by canonical name; None where a line names no version (`name @ file:///...`).

    Raises:
        InputError: There is no such file, or it lists nothing.
    """
    if not path.is_file():
        raise InputError(
            f"--have {path} is no file; on the machine: python3 -m pip list --format=freeze > FILE"
        )
    have = dict(_packages(read_text(path).splitlines()))
    if not have:
        raise InputError(
            f"--have {path} lists no package; it must hold lines such as torch==2.11.0, as "
            "`pip list --format=freeze` prints them"
        )
    return have


def _packages(lines: Sequence[str]) -> list[tuple[str, Version | None]]:
    packages: list[tuple[str, Version | None]] = []
    for line in lines:
        if found := re.fullmatch(r"\s*([\w.-]+)\s*(?:==(\S+)|@\s.*)\s*", line):
            try:
                version = Version(found[2]) if found[2] else None
            except InvalidVersion:
                version = None
            packages.append((canonicalize_name(found[1]), version))
    return packages

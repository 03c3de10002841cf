"""The wheel of trimlab itself, written from its source: no build system, no index.

From a clone, the wheel also holds the packages that it ships nowhere else (`analysis`,
`baselines`), and its version names the commit, which every record of the machine then has.
"""

import base64
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from packaging.markers import Marker
from packaging.requirements import Requirement

from trimlab.errors import InputError
from trimlab.records.provenance import git_commit

NAME = "trimlab"
ROOT = Path(__file__).parents[2]  # the clone, or the folder of installed packages
ONLY_IN_A_CLONE = ("analysis", "baselines")


def clone() -> Path | None:
    """The clone that trimlab is imported from, or None."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return ROOT if project.get("project", {}).get("name") == NAME else None


def write_package(folder: Path, repository: Path | None) -> Path:
    """Writes the wheel of trimlab.

    Args:
        folder: Where it goes.
        repository: What `clone` returns.

    Returns:
        The wheel. The same source gives the same bytes.

    Raises:
        InputError: trimlab is neither installed nor in a clone.
    """
    files = dict(_package_files(ROOT / NAME))
    if repository is None:
        version, about = _installed()
    else:
        for package in ONLY_IN_A_CLONE:
            files |= dict(_package_files(ROOT / package))
        project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
        version, about = _of_project(project["project"], git_commit(repository))
    about["WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: trimlab bundle\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    information = f"{NAME}-{version}.dist-info"
    files |= {f"{information}/{name}": text.encode() for name, text in about.items()}
    files[f"{information}/RECORD"] = _record(files, f"{information}/RECORD")
    wheel = folder / f"{NAME}-{version}-py3-none-any.whl"
    with ZipFile(wheel, "w", ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            info = ZipInfo(name)  # of the year 1980
            info.compress_type, info.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, content)
    return wheel


def _package_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files of a package by their path in the wheel, without what Python makes itself."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder.parent).as_posix(), path.read_bytes()


def _installed() -> tuple[str, dict[str, str]]:
    """The version of the installed package and the files that describe it."""
    try:
        found = metadata.distribution(NAME)
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"{NAME} in {ROOT} is neither installed nor in a clone: pip install {NAME}"
        ) from error
    about = {name: found.read_text(name) for name in ("METADATA", "entry_points.txt")}
    return found.version, {name: text for name, text in about.items() if text}


def _of_project(project: Mapping[str, Any], commit: str | None) -> tuple[str, dict[str, str]]:
    """The version that a pyproject and a commit give, and the files that describe the package."""
    version = project["version"]
    if commit is not None:
        version += "+g" + commit.replace("-", ".")  # of `-dirty`
    lines = [
        *("Metadata-Version: 2.1", f"Name: {NAME}", f"Version: {version}"),
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in project["dependencies"]),
    ]
    for extra, requirements in project.get("optional-dependencies", {}).items():
        lines.append(f"Provides-Extra: {extra}")
        for text in requirements:
            requirement, condition = Requirement(text), f'extra == "{extra}"'
            marker = f"({requirement.marker}) and {condition}" if requirement.marker else condition
            requirement.marker = Marker(marker)
            lines.append(f"Requires-Dist: {requirement}")
    scripts = (f"{name} = {target}\n" for name, target in project["scripts"].items())
    return version, {
        "METADATA": "\n".join(lines) + "\n",
        "entry_points.txt": "[console_scripts]\n" + "".join(scripts),
    }


def _record(files: Mapping[str, bytes], itself: str) -> bytes:
    lines = []
    for name, content in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{itself},,\n"]).encode()

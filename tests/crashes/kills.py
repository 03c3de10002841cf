"""Runs that die: before a write, in the middle of one, at some moment, on a full disk."""

import ctypes
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.crashes.writes import Write, Writes, die, die_in_next_write
from tests.forked import Ended, Forked
from trimlab.errors import disk_is_full

RunIn = Callable[[Path], Any]  # makes a run in a folder, or goes on with it


def crash_states(run: RunIn, folder: Path, states: Path) -> list[Path]:
    """Makes a run and keeps every state of its folder in which a kill could leave it.

    These are the states before each change of a file, and those in which what was written since is
    cut in two. Equal states are kept once.

    Args:
        run: Makes the run.
        folder: Its folder.
        states: An empty folder for the states, which are copies.

    Returns:
        The states, in the order in which a run passes through them.
    """

    def keep(number: int, write: Write) -> None:
        name = re.sub("[^a-zA-Z0-9.]+", "-", f"{number:04}-{write.what}-{write.path}")
        if folder.exists():
            shutil.copytree(folder, states / name)

    states.mkdir()
    ended = Forked(lambda: (Writes(folder, keep), run(folder))).wait()
    assert ended.code == 0, ended.err
    found: list[Path] = []
    before: dict[str, bytes] = {}
    for state in sorted(states.iterdir()):
        files = {str(p.relative_to(state)): p.read_bytes() for p in _files(state)}
        for name, content in files.items():
            there = len(before.get(name, b""))
            written = name in before or content not in before.values()  # and not renamed
            if written and len(content) > there + 1 and content.startswith(before.get(name, b"")):
                cut = state.with_name(f"{state.name}-cut-{len(found)}")
                shutil.copytree(state, cut)
                os.truncate(cut / name, there + (len(content) - there) // 2)
                found.append(cut)
        if files == before and found:
            shutil.rmtree(state)
        else:
            found.append(state)
        before = files
    return found


def kept(state: Path) -> frozenset[tuple[str, bytes]]:
    """What a state holds apart from temporary files, which are removed before anything is read."""
    names = {p: str(p.relative_to(state)) for p in _files(state)}
    return frozenset((n, p.read_bytes()) for p, n in names.items() if ".part" not in n)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def killed_at(run: RunIn, folder: Path, number: int, *, halfway: bool = False) -> Ended:
    """A run that is killed before its n-th change of a file, or in the middle of the next write."""

    def before(here: int, write: Write) -> None:
        if here == number:
            die_in_next_write(folder / write.path) if halfway else die()

    return Forked(lambda: (Writes(folder, before), run(folder))).wait()


def killed_after(run: RunIn, folder: Path, seconds: float, generator: random.Random) -> bool:
    """A run of which one process is killed some time after its start, and half of the time all.

    Returns when no process of it is left.

    Returns:
        Whether there was one to kill: the run may have come to its end before.
    """
    child = Forked(run, folder)
    child.process.join(seconds)
    tree: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        whole = psutil.Process(child.process.pid)
        tree = whole.children(recursive=True) or [whole]
    if tree:
        victims = tree if generator.random() < 0.5 else [generator.choice(tree)]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    child.wait()
    psutil.wait_procs(tree)
    return bool(tree)


def on_a_full_disk(run: RunIn, folder: Path, full: Callable[[int, Write], bool]) -> Ended:
    """A run whose disk is full from some change of a file on, and one when there is room again.

    The folder is a small file system of the child alone; its content is copied to the parent's.

    Returns:
        The end of the child; its output tells how the first run ended.
    """

    def both() -> None:
        folder.mkdir()
        mount_small_disk(folder)
        filler, filled = folder / ".filler", list[Write]()

        def before(number: int, write: Write) -> None:
            if write.path != Path(filler.name) and not filled and full(number, write):
                filled.append(write)
                fill(filler)

        Writes(folder, before)
        try:
            run(folder)
            print("the run came to its end")
        except Exception as error:
            print(f"{'a full disk' if disk_is_full(error) else 'another error'}: {error!r}")
        filler.unlink(missing_ok=True)
        run(folder)
        shutil.copytree(folder, folder.with_name(f"{folder.name}-copy"))

    ended = Forked(both).wait()
    folder.rmdir()  # the place of the file system
    if ended.code == 0:
        folder.with_name(f"{folder.name}-copy").rename(folder)
    return ended


def mount_small_disk(folder: Path, size: int = 16 << 20) -> None:
    """Mounts a file system of some megabytes that only this process sees.

    Raises:
        PermissionError: The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts, private = 0x10000000, 0x00020000, 1 << 18 | 1 << 14
    spaces = new_mounts if os.geteuid() == 0 else new_user | new_mounts
    done = libc.unshare(spaces) == 0
    done = done and libc.mount(b"none", b"/", None, private, None) == 0
    about = f"size={size}".encode()
    if not done or libc.mount(b"none", bytes(folder), b"tmpfs", 0, about) != 0:
        raise PermissionError(ctypes.get_errno(), "mounting is not allowed")


def fill(path: Path) -> None:
    """Fills the disk of a path to its last byte."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))

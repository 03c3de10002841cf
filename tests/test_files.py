"""Atomic writes: a whole file or folder under its name, or what was there before, or none."""

import errno
import fcntl
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forked import Forked
from trimlab.errors import InputError, disk_is_full
from trimlab.files import (
    atomic_file,
    atomic_folder,
    damaged_files,
    is_replaceable,
    shared_folder,
    try_lock,
    write_checksums,
    write_text,
)

INTERRUPTIONS = [KeyboardInterrupt(), OSError(errno.ENOSPC, "no space"), RuntimeError("broken")]
interrupted = pytest.mark.parametrize("error", INTERRUPTIONS, ids=repr)


def write_model(folder: Path, content: str) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)


def read_model(folder: Path) -> str:
    return (folder / "model.safetensors").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, error: BaseException) -> None:
    """Writes a part of a file or of a model, and is interrupted."""
    (path / "config.json" if path.is_dir() else path).write_text("{")
    raise error


def kill_in(write: Callable[[], None]) -> None:
    """Runs `write` in another process, which must be killed by it."""
    ended = Forked(write).wait()
    assert ended.code == -signal.SIGKILL, ended.err


# ---- files --------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    with atomic_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["summary.json"]
    write_text(path, "newer")
    assert path.read_text() == "newer" and names(tmp_path) == ["summary.json"]


@interrupted
def test_an_interrupted_file_leaves_the_old_one(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_file(path) as part:
        write_half(part, error)
    assert path.read_text() == "old" and names(tmp_path) == ["last.ckpt"]


def test_the_next_write_replaces_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as part:
            part.write_text("half of something longer")
            os.kill(os.getpid(), signal.SIGKILL)

    kill_in(write)
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["last.ckpt"]


# ---- the folder of a model ----------------------------------------------------------------------


def test_a_model_appears_when_it_is_whole_and_replaces_another(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "half"
    for content in ("old", "new"):
        with atomic_folder(folder) as part:
            write_model(part, content)
            assert not folder.exists() or read_model(folder) == "old"
        assert read_model(folder) == content and names(folder.parent) == ["half"]


@interrupted
def test_an_interrupted_model_leaves_the_old_one(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic_folder(folder) as part:
        write_half(part, error)
    assert names(tmp_path) == []
    with atomic_folder(folder) as part:
        write_model(part, "old")
    with pytest.raises(expected), atomic_folder(folder) as part:
        write_half(part, error)
    assert names(tmp_path) == ["half"] and read_model(folder) == "old"


def test_a_full_disk_is_recognised_behind_another_error(tmp_path: Path) -> None:
    error = RuntimeError("unexpected pos 64")  # as torch's writer raises it
    error.__cause__ = OSError(errno.ENOSPC, "no space")
    with (
        pytest.raises(InputError, match=f"disk of {tmp_path} is full"),
        atomic_folder(tmp_path / "half") as part,
    ):
        write_half(part, error)


def test_the_next_model_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "half"

    def write() -> None:
        with atomic_folder(folder) as part:
            (part / "left").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

    kill_in(write)
    assert not folder.exists()
    with atomic_folder(folder) as part:
        assert names(part) == []
        write_model(part, "new")
    assert names(tmp_path) == ["half"] and names(folder) == ["config.json", "model.safetensors"]


def test_a_model_too_large_for_the_disk_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**10, 0, 10**9))
    folder = tmp_path / "half"
    with pytest.raises(InputError, match="no room for 2.0 GB"), atomic_folder(folder, 2 * 10**9):
        pytest.fail("written")
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", ["a file", "other files", "a config alone"])
def test_a_place_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    place = tmp_path / "thesis"
    if content == "a file":
        place.write_text("years of work")
    else:
        place.mkdir()
        name = "config.json" if content == "a config alone" else "chapter.tex"
        (place / name).write_text("years of work")
    with pytest.raises(InputError, match="holds no model"), atomic_folder(place):
        pytest.fail("written")
    kept = place if content == "a file" else next(place.iterdir())
    assert kept.read_text() == "years of work" and names(tmp_path) == ["thesis"]


def test_empty_folders_and_models_are_replaceable(tmp_path: Path) -> None:
    assert not is_replaceable(tmp_path / "nothing")
    assert is_replaceable(tmp_path)
    write_model(tmp_path, "")
    (tmp_path / "README.md").write_text("")
    assert is_replaceable(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_model(tmp_path, "weights")
    assert damaged_files(tmp_path) == []  # nothing is known of them
    write_checksums(tmp_path)
    assert damaged_files(tmp_path) == []
    (tmp_path / "model.safetensors").write_text("weighty")
    assert damaged_files(tmp_path) == ["model.safetensors"]
    (tmp_path / "config.json").unlink()
    assert damaged_files(tmp_path) == ["config.json", "model.safetensors"]
    (tmp_path / "checksums.json").write_text("[")
    assert damaged_files(tmp_path) == ["checksums.json"]


def test_a_file_system_without_locks_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks"):
        try_lock(tmp_path / ".lock")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_for_this_user_is_a_full_disk_too(number: int) -> None:
    assert disk_is_full(OSError(number, "no room"))
    assert disk_is_full(RuntimeError(f"I/O error: no room (os error {number})"))
    assert not disk_is_full(OSError(errno.EACCES, "denied"))


# ---- a folder that several processes build ------------------------------------------------------


def test_the_first_of_two_builders_wins(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    with shared_folder(folder) as slow:
        write_model(slow, "slow")
        with shared_folder(folder) as fast:
            assert fast != slow
            write_model(fast, "fast")
        assert read_model(folder) == "fast"
    assert read_model(folder) == "fast" and names(folder.parent) == ["model"]


@interrupted
def test_an_interrupted_builder_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(type(error)), shared_folder(folder) as part:
        write_half(part, error)
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), shared_folder(tmp_path / "file" / "model"):
        pytest.fail("built")
    with pytest.raises(OSError), shared_folder(tmp_path / "file") as part:  # noqa: PT011
        write_model(part, "")
    assert names(tmp_path) == ["file"]

"""A call in a process of its own can fail, and says how."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Forked
from trimlab import cli


def test_exit_code_and_output_are_those_of_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    done = Forked(cli.main, ["eval", "nosuch", "--tasks", "nosuch"]).wait()
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("trimlab: there is no model 'nosuch'") and done.err.count("\n") == 1
    done = Forked(cli.main, ["--help"]).wait()
    assert done.code == 0 and "exit codes:" in done.out and done.err == ""
    assert capfd.readouterr() == ("", "")


def test_an_exception_is_printed_and_a_child_of_the_child_is_heard() -> None:
    def fail() -> None:
        os.system("echo from a shell; echo and its errors >&2")  # noqa: S605
        raise RuntimeError("the roof")

    done = Forked(fail).wait()
    assert (done.code, done.out) == (1, "from a shell\n")
    assert done.err.startswith("and its errors\n") and "RuntimeError: the roof" in done.err


@pytest.fixture
def deaf() -> Iterator[None]:
    """This process goes on at a SIGTERM, as after a sweep in it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_child_alone(number: signal.Signals, tmp_path: Path) -> None:
    def sleep() -> None:
        (tmp_path / "begun").touch()
        time.sleep(600)

    child = Forked(sleep)
    while not (tmp_path / "begun").exists():
        assert child.process.is_alive()
        time.sleep(0.01)
    assert child.process.pid is not None
    os.kill(child.process.pid, number)
    assert child.wait().code == -number


def test_nothing_that_the_child_changes_is_changed_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change() -> None:
        os.chdir(tmp_path)
        os.environ["TRIMLAB_FORKED"] = "1"
        monkeypatch.setattr(cli, "main", None)
        sys.exit(7)

    folder = Path.cwd()
    assert Forked(change).wait().code == 7
    assert Path.cwd() == folder and "TRIMLAB_FORKED" not in os.environ and cli.main is not None

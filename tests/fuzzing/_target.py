"""What a target gives, and how its inputs are tried."""

import importlib
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random

from jsonargparse import ArgumentError

from trimlab.errors import InputError, path_is_too_long
from trimlab.plugins import plugin_names

TARGETS = "tests.fuzzing.targets"
LONGEST = 60  # seconds of the processor that an input may take


class TooLongError(BaseException):
    """An input took too long. No `except Exception` on the way takes it for a refusal."""


Attempt = Callable[[Random], None]  # makes one input and reads it


def target_names() -> list[str]:
    """Names of the targets."""
    return plugin_names(TARGETS)


def prepare(name: str, folder: Path) -> Attempt:
    """A target, ready to try inputs.

    Args:
        name: One of `target_names()`.
        folder: An empty folder of its own.
    """
    return importlib.import_module(f"{TARGETS}.{name}").prepare(folder)


def refused(name: str, attempt: Attempt, case: int) -> bool:
    """Tries an input, and says whether it was refused as wrong input.

    Args:
        name: Name of the target.
        attempt: The target.
        case: Number of the input.

    Raises:
        Exception: Whatever a command would end with that is no `InputError`.
    """
    random = Random(f"{name} {case}")
    with _silent(), _limited():
        try:
            attempt(random)
        except (InputError, ArgumentError):
            return True
        except OSError as error:
            if path_is_too_long(error):  # which the command line says, whatever the path is of
                return True
            raise
    return False


def place_of(error: BaseException) -> str:
    """The error's type and the innermost line of trimlab that it came from: one per defect."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/trimlab/" in f.filename or "/analysis/" in f.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"


@contextmanager
def _silent() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _limited() -> Iterator[None]:
    """Ends an input that takes too long: that is a defect, too."""

    def stop(_signal: int, _frame: object) -> None:
        raise TooLongError(f"no answer within {LONGEST} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)

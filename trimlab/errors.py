"""The one exception that means: the input is wrong, and the user can mend it."""

import errno


class InputError(Exception):
    """Wrong input: a config, a file, a model or a target that cannot work.

    The message is one line that says what is wrong and what to do. The command line prints
    it without a traceback and exits with 2.
    """


# what a process says that ends because of another one
LOST = "another process of the run has ended"
FIRST_FAILED = "the first process has failed"


class RankError(Exception):
    """Another process of a distributed run has failed.

    Args:
        message: One line, empty where that process has said all.
        code: Exit code of the command.
    """

    def __init__(self, message: str = "", code: int = 1):
        super().__init__(message)
        self.code = code


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it hides, says that there is no room on the disk.

    torch's writer raises an error of its own over that of the file, and safetensors, which is
    written in Rust, has the number in its text alone.
    """
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

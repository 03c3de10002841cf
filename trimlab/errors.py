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


# no space on the device, over the user's quota, over the limit of a file's size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it hides, says that there is no room on the disk.

    torch's writer raises an error of its own over that of the file, and libraries that are written
    in Rust have the number in their text alone.
    """
    while error is not None:
        if getattr(error, "errno", None) in _FULL:
            return True
        if any(f"os error {number}" in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def path_is_too_long(error: OSError) -> bool:
    """Whether an error says that the system takes no path or name of such a length."""
    return error.errno == errno.ENAMETOOLONG


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that a device has too little memory.

    torch raises an error of its own for a GPU alone; on a CPU, only the text tells.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""The one exception that means: the input is wrong, and the user can mend it."""


class InputError(Exception):
    """Wrong input: a config, a file, a model or a target that cannot work.

    The message is one line that says what is wrong and what to do. The command line prints
    it without a traceback and exits with 2.
    """

"""What `--help` says of a plug-in, from its docstring."""

from inspect import cleandoc


def description(documented: type) -> str:
    """The docstring of a class without its arguments, which `--help` lists one by one.

    Args:
        documented: The class.
    """
    return cleandoc(documented.__doc__ or "").partition("\nArgs:")[0]

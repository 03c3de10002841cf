"""Commands and functions in several processes of one run, forked from this one."""

import os
from collections.abc import Callable
from typing import Any

from lightning.fabric.plugins.environments.lightning import find_free_network_port

from tests.forked import Ended, Forked


def in_ranks(n: int, function: Callable[..., Any], *arguments: Any) -> list[Ended]:
    """Calls a function in each process of a run of several, as a scheduler would start them.

    Args:
        n: Number of processes.
        function: The function.
        *arguments: Its arguments.
    """
    return [child.wait() for child in start_ranks(n, function, *arguments)]


def start_ranks(n: int, function: Callable[..., Any], *arguments: Any) -> list[Forked]:
    """The same without the wait."""
    port = str(find_free_network_port())

    def call(rank: int) -> None:
        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        function(*arguments)

    return [Forked(call, rank) for rank in range(n)]

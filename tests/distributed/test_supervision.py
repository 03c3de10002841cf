"""The processes of a run end together, and the command says why."""

import sys

import pytest

from trimlab.errors import RankError
from trimlab.runs.processes import run_processes

# the first process notices later that the other one is gone
LOST = "print('trimlab: another process of the run has ended', file=sys.stderr)"
HEAD = "import os, signal, sys, time; rank = os.environ['LOCAL_RANK']\n"


@pytest.mark.parametrize(
    ("of_second", "of_first", "code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", f"{LOST}; sys.exit(1)", 1, "killed by SIGKILL"),
        ("print('trimlab: no room', file=sys.stderr); sys.exit(1)", "sys.exit(1)", 1, "no room"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(600)", 1, "killed by SIGSEGV"),
        ("sys.exit(2)", "sys.exit(2)", 2, ""),  # wrong input, said by the first
    ],
)
def test_one_that_ends_early_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, of_second: str, of_first: str, code: int, message: str
) -> None:
    monkeypatch.setattr("trimlab.runs.processes.GRACE_SECONDS", 1.0)
    script = f"{HEAD}if rank == '1':\n    {of_second}\nelse:\n    {of_first}\n"
    with pytest.raises(RankError) as end:
        run_processes([sys.executable, "-c", script], 2)
    assert end.value.code == code and message in str(end.value)
    assert str(end.value) == "" or str(end.value).startswith("process 1 of 2 has ended (")


def test_processes_that_end_well_have_a_rank_each() -> None:
    run_processes([sys.executable, "-c", f"{HEAD}assert rank in '012'"], 3)

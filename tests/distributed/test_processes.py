"""Runs of several processes: the result of one, also after a kill and with another number."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest

from tests.forked import Ended, Forked
from tests.ranks import assert_same_run, fit_arguments, in_ranks
from trimlab import cli, ranks
from trimlab.algorithm import Trim
from trimlab.records.operating_point import OperatingPoint
from trimlab.records.rows import read_rows
from trimlab.training.module import DomainLM

Fit = Callable[..., list[Ended]]
Before = Callable[[], object]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def fit(base: Path, root: Path, runs: Path) -> Fit:
    """`fit(n, folder, *options)` trims a tiny model in n processes, and gives their ends."""

    def start(n: int, folder: str, *options: str, before: Before = lambda: None) -> list[Ended]:
        def run() -> None:
            before()
            cli.main(fit_arguments(base, root, runs / folder, n, *options))

        return in_ranks(n, run)

    return start


@pytest.fixture(scope="module")
def one(fit: Fit, runs: Path) -> Path:
    (end,) = fit(1, "one")
    assert end.code == 0, end.err
    return runs / "one"


def die_at_the_second_point(rank: int) -> None:
    """Kills a process where it reaches its second operating point."""
    reach = Trim.reach_operating_point

    def dying(self: Trim, trainer: L.Trainer, module: DomainLM) -> OperatingPoint:
        if len(self.points) == 1 and ranks.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return reach(self, trainer, module)

    Trim.reach_operating_point = dying


def test_two_processes_do_what_one_does(fit: Fit, one: Path, runs: Path) -> None:
    ended = fit(2, "two")
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    assert (ended[1].out, ended[1].err) == ("", "")  # everything is said once
    assert_same_run(one, runs / "two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.strategy", "deepspeed"], "trainer.strategy deepspeed is not supported: take"),
        (["--trainer.devices", "none"], "trainer: "),
        (["--trainer.strategy", "fsdp", "--model.lora_rank", "4"], "lora_rank needs trainer.strat"),
    ],
)
def test_bad_input(base: Path, root: Path, runs: Path, options: list[str], message: str) -> None:
    def run() -> None:
        os.environ["LOCAL_RANK"] = "0"  # as if the other process were on its way
        cli.main(fit_arguments(base, root, runs / "refused", 2, *options))

    end = Forked(run).wait()
    assert end.code == 2 and end.err.startswith("trimlab: ") and message in end.err


@pytest.mark.slow
def test_fsdp_does_what_one_process_does(fit: Fit, one: Path, runs: Path) -> None:
    options = ("--trainer.strategy", "fsdp", "--run.full_depth", "true")
    ended = fit(2, "sharded", *options)
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    assert_same_run(one, runs / "sharded")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["choices", "context"])
def test_terms_of_a_loss_are_counted_over_all_processes(fit: Fit, runs: Path, loss: str) -> None:
    for n in (1, 2):
        ended = fit(n, f"{loss} {n}", "--model.loss", loss)
        assert [end.code for end in ended] == [0] * n, ended[0].err
    assert_same_run(runs / f"{loss} 1", runs / f"{loss} 2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, "auto"), (2, "fsdp")),
        ((2, "ddp"), (1, "auto")),
        ((2, "ddp"), (3, "ddp")),
        ((2, "fsdp"), (3, "fsdp")),
    ],
)
def test_a_process_dies_and_another_number_goes_on(
    fit: Fit, one: Path, runs: Path, before: tuple[int, str], after: tuple[int, str]
) -> None:
    name, last = f"{before}, {after}", before[0] - 1
    ended = fit(
        before[0],
        name,
        *("--trainer.strategy", before[1]),
        before=lambda: die_at_the_second_point(last),
    )
    assert ended[last].code == -signal.SIGKILL
    for end in ended[:last]:
        assert end.code == 1
        assert end.err.splitlines()[-1].startswith("trimlab: another process of the run has ended")
    assert len(read_rows(runs / name / "record.jsonl")) == 1
    ended = fit(after[0], name, "--trainer.strategy", after[1])
    assert [end.code for end in ended] == [0] * after[0], ended[0].err
    assert_same_run(one, runs / name)


@pytest.mark.slow
def test_the_command_starts_its_processes_and_ends_with_one_that_dies(
    base: Path, root: Path, one: Path, runs: Path
) -> None:
    folder = runs / "command"
    command = [sys.executable, "-m", "trimlab.cli", *fit_arguments(base, root, folder, 2)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not read_rows(folder / "record.jsonl"):
        assert run.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, said = run.communicate()
    assert run.returncode == 1
    assert "trimlab: process 1 of 2 has ended (killed by SIGKILL)" in said.splitlines()[-1]
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert subprocess.run(command, check=False).returncode == 0
    assert_same_run(one, folder)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gpus_do_what_one_does(base: Path, root: Path, tmp_path: Path, strategy: str) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    gpu = ("--trainer.accelerator", "gpu", "--trainer.strategy", strategy)
    for n in (1, 2):
        arguments = fit_arguments(base, root, tmp_path / str(n), n, *gpu)
        subprocess.run([sys.executable, "-m", "trimlab.cli", *arguments], check=True)
    assert_same_run(tmp_path / "1", tmp_path / "2")

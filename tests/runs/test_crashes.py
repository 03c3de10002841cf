"""Faults that are injected for real: kills, signals, a full disk, damaged files, no memory."""

import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.crashes.kills import RunIn, crash_states, killed_at, on_a_full_disk
from tests.crashes.scenarios import IN_ONE_PROCESS, trimming
from tests.crashes.snapshots import differences, snapshot
from tests.crashes.writes import CUT, KILLED
from tests.forked import Forked
from trimlab import cli
from trimlab.commands import fit as fit_command
from trimlab.errors import InputError
from trimlab.training.module import DomainLM


@pytest.fixture(scope="module")
def run(base: Path, root: Path) -> RunIn:
    return trimming(base, root)


@pytest.fixture(scope="module")
def whole(run: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


@pytest.fixture(scope="module")
def expected(whole: Path) -> dict[str, Any]:
    return snapshot(whole)


# ---- kills -------------------------------------------------------------------------------------


def test_a_run_survives_kills_at_its_writes(
    run: RunIn, expected: dict[str, Any], tmp_path: Path
) -> None:
    """One kill before a write, one in the middle of another, until the run comes to its end."""
    folder, generator = tmp_path / "run", random.Random(0)
    for halfway, most in ((False, 90), (True, 40)):
        ended = killed_at(run, folder, generator.randrange(20, most), halfway=halfway)
        assert ended.code == (CUT if halfway else KILLED), ended.err
    run(folder)
    assert differences(snapshot(folder), expected) == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", IN_ONE_PROCESS.values(), ids=IN_ONE_PROCESS)
def test_every_state_that_a_kill_can_leave_is_resumed(
    scenario: Callable[..., RunIn], base: Path, root: Path, tmp_path: Path
) -> None:
    run = scenario(base, root)
    run(tmp_path / "whole")
    expected = snapshot(tmp_path / "whole")
    for state in crash_states(run, tmp_path / "again", tmp_path / "states"):
        ended = Forked(run, state).wait()
        assert ended.code == 0, (state.name, ended.err)
        assert differences(snapshot(state), expected) == [], state.name
        shutil.rmtree(state)


def test_a_signal_in_an_epoch_saves_the_step(
    run: RunIn, expected: dict[str, Any], tmp_path: Path
) -> None:
    def interrupted(folder: Path) -> None:
        step = DomainLM.training_step

        def training_step(module: DomainLM, batch: Any, index: int) -> Any:
            if module.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(module, batch, index)

        setattr(DomainLM, "training_step", training_step)  # noqa: B010
        fit_command.run = lambda _arguments: run(folder)
        cli.main(["fit"])

    folder = tmp_path / "run"
    ended = Forked(interrupted, folder).wait()
    assert ended.code == 1, ended.err
    assert ended.err.endswith("trimlab: interrupted; the same command goes on where it was\n")
    # an epoch has two steps: one of the second epoch is kept
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(folder)
    assert differences(snapshot(folder), expected) == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_folder_that_another_process_holds(run: RunIn, whole: Path) -> None:
    from trimlab.files import try_lock

    def hold() -> None:
        lock = try_lock(whole / ".lock")
        os.write(ready, b"x")
        signal.pause()
        del lock

    reader, ready = os.pipe()
    holder = Forked(hold)
    os.read(reader, 1)
    with pytest.raises(InputError, match=rf"process {holder.process.pid} on .* is running in"):
        run(whole)
    holder.process.kill()
    holder.wait()
    run(whole)  # the file that it has left is no lock


# ---- no room -----------------------------------------------------------------------------------


def test_a_disk_that_is_full_loses_nothing(
    run: RunIn, expected: dict[str, Any], tmp_path: Path
) -> None:
    for name in (".last.ckpt.part", "config.json"):
        folder = tmp_path / name.strip(".")
        ended = on_a_full_disk(run, folder, lambda _, write, name=name: write.path.name == name)
        if "mounting is not allowed" in ended.err:
            pytest.skip("mounting is not allowed")
        assert ended.code == 0, ended.err
        assert ended.out.startswith("a full disk"), ended.out
        assert differences(snapshot(folder), expected) == []


def test_too_little_memory_says_what_to_lower(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for allocate in (lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60)):
        monkeypatch.setattr(fit_command, "run", lambda _arguments, allocate=allocate: allocate())
        with pytest.raises(SystemExit) as stop:
            cli.main(["fit"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        assert error.startswith("trimlab: out of memory: lower model.train_tokens")


@pytest.mark.slow
def test_too_little_memory_in_a_scan_halves_what_is_computed_at_once(
    tiny_model: Any, tiny_tokenizer: Any, root: Path
) -> None:
    from trimlab import SublayerStack, scan
    from trimlab.data.domain import DomainData

    stack = SublayerStack(tiny_model("llama", torch.float32, intermediate_size=1 << 14))
    data = DomainData(tiny_tokenizer(), "jsonl", root, calibration_rows=30, dev_rows=10)
    batches = data.calibration_batches()

    def limited() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + (100 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        print(json.dumps(scan(stack, batches, max_tokens=1 << 14).statistics))

    whole = scan(stack, batches, max_tokens=1 << 14).statistics
    ended = Forked(limited).wait()
    assert ended.code == 0, ended.err
    assert "out of memory in the scan: going on with" in ended.err
    found = json.loads(ended.out)
    for name, values in whole.items():
        assert found[name] == pytest.approx(values, rel=1e-5)


# ---- damaged files -----------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Turns over one bit in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(
    run: RunIn,
    whole: Path,
    expected: dict[str, Any],
    tmp_path: Path,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["stopped_because"], summary["models"], summary["trimmed"], summary["fine_tuned"]
    (folder / "summary.json").write_text(json.dumps(summary))
    damage(folder / "checkpoints" / "last.ckpt")
    damage(folder / "record.jsonl")
    run(folder)
    error = capsys.readouterr().err
    assert "last.ckpt is missing, damaged" in error and "going on from previous.ckpt" in error
    assert differences(snapshot(folder), expected) == []


def test_a_damaged_record_is_not_taken_for_a_whole_one(whole: Path, tmp_path: Path) -> None:
    from trimlab.records.result_row import ExperimentCell
    from trimlab.runs.findings import rows_of
    from trimlab.runs.folder import RunFolder

    shutil.copytree(whole, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    name = json.loads(folder.summary.read_text())["config_hash"]
    about = {"experiment": "e", "profile": "p", "cell": {}, "seed": 0, "limit": None}
    cell = ExperimentCell(run=name, overrides={}, **about)
    assert rows_of(cell, folder)[-1].complete
    lines = folder.record.read_bytes().splitlines(keepends=True)
    for damaged in ([lines[0], b"\xff" + lines[1], *lines[2:]], lines[:-1], []):
        folder.record.write_bytes(b"".join(damaged))
        with pytest.raises(InputError, match=r"record\.jsonl lacks operating points"):
            rows_of(cell, folder)


def test_a_damaged_summary_is_named(run: RunIn, whole: Path, tmp_path: Path) -> None:
    for content in (b"{", b"[]", b"{}", b"\xff"):
        folder = tmp_path / "run"
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        (folder / "summary.json").write_bytes(content)
        with pytest.raises(InputError, match=r"summary\.json is damaged .*; remove it"):
            run(folder)

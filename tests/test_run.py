"""A whole run on a tiny model: what it leaves behind, and that a killed one ends the same."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import trimlab
from trimlab import algorithm, calibration
from trimlab.errors import InputError
from trimlab.module import DomainLM
from trimlab.results import TIMING_FIELDS, read_rows

QUIET = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), "gemma3_text")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, letters_domain: Any) -> Path:
    return letters_domain(tmp_path_factory.mktemp("domain"))


def start(base: Path, root: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Trims the tiny model to half of its layers in two steps."""
    return trimlab.trim(
        str(base),
        "jsonl",
        folder,
        model={"lr": 1e-2},
        data={"root": root, "calibration_rows": 15, "dev_rows": 15, "batch_size": 4},
        run={"full_depth": options.pop("full_depth", False), "speed": options.pop("speed", False)},
        trainer={k: v for k, v in QUIET.items() if k != "logger"},
        **({"target_layer_memory": 0.5, "packable": True, "r": 0.5, "progress": False} | options),
    )


@pytest.fixture(scope="module")
def finished(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    start(base, root, folder, full_depth=True, speed=True, save_at=[0.75])
    return folder


@pytest.fixture(scope="module")
def uninterrupted(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    start(base, root, folder)
    return folder


def test_summary(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("untrimmed", "fine_tuned", "trimmed"):
        row = summary[name]
        assert 0 <= row["accuracy"] <= 100
        assert row["n"] == 24
        assert row["stderr"] >= 0
    assert [m["layer_memory_ratio"] for m in summary["models"]] == [0.75, 0.5]
    trimmed = summary["trimmed"]
    assert trimmed == summary["models"][-1]
    assert trimmed["tier"] == "T1"
    assert trimmed["blocks"] == 2
    assert 0.5 < trimmed["model_memory_ratio"] < 1
    assert trimmed["tokens_per_second"] > 0
    assert trimmed["untrimmed_tokens_per_second"] > 0
    assert summary["fine_tuned"]["optimizer_steps"] == trimmed["optimizer_steps"]
    assert 0 <= summary["shortcuts"]["word_overlap"] <= 100
    assert set(summary["row_sets"]) == {"train", "calibration", "dev", "test"}


@pytest.mark.parametrize("name", ["0.75", "0.5"])
def test_exports_are_stock_models(finished: Path, name: str) -> None:
    folder = finished / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    assert model.config.num_hidden_layers == round(4 * float(name))
    card = (folder / "README.md").read_text()
    for word in ("base_model", "accuracy", "±", "Dropped", "Licence", "jsonl"):
        assert word in card
    assert not list(folder.parent.glob(".*"))


def test_record(finished: Path) -> None:
    rows = read_rows(finished / "record.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["layer_memory_ratio"] for row in rows] == [1.0, 0.75, 0.5]
    assert rows[1]["dev_before_drop"] == rows[0]["dev"]
    for row in rows[1:]:
        lowest = min(row["scan"], key=lambda entry: entry["score"])
        assert lowest["candidate"] == "+".join(row["dropped"])


def test_second_start_says_it_is_done(finished: Path, base: Path, root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.name != ".lock"}
    start(base, root, finished, full_depth=True, speed=True, save_at=[0.75])
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_config_in_the_same_folder_is_refused(
    finished: Path, base: Path, root: Path
) -> None:
    with pytest.raises(InputError, match="another config.*r"):
        start(base, root, finished, full_depth=True, speed=True, save_at=[0.75], r=0.25)


def test_a_foreign_folder_is_refused(base: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty"):
        start(base, root, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "thesis.tex"]


def die(*_args: Any, **_kwargs: Any) -> None:
    """As kill -9 does it: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(
    number: int, function: Callable[..., Any], then: Callable[..., Any] = die
) -> Callable[..., Any]:
    """The function, until its call of this number, which kills the process."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return then() if calls == number else function(*args, **kwargs)

    return counted


def half_written(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """`torch.save` that dies after half of the bytes of its call of this number."""
    calls = 0

    def save(state: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        function(state, file, *args, **kwargs)
        if calls == number:
            file.truncate(file.tell() // 2)
            die()

    return save


def interrupt(*_args: Any) -> None:
    raise KeyboardInterrupt


CRASHES: dict[str, Callable[[], None]] = {
    "initial scan": lambda: setattr(calibration, "restart", on_call(5, calibration.restart)),
    "mid-epoch": lambda: setattr(DomainLM, "training_step", on_call(9, DomainLM.training_step)),
    "mid-scan": lambda: setattr(calibration, "restart", on_call(14, calibration.restart)),
    "between scan and drop": lambda: setattr(
        algorithm.Trim, "drop", on_call(2, algorithm.Trim.drop)
    ),
    "while a checkpoint is written": lambda: setattr(torch, "save", half_written(torch.save, 4)),
    "between record and checkpoint": lambda: setattr(
        algorithm,
        "append_row",
        lambda *a, f=algorithm.append_row: (f(*a), a[1]["step"] == 1 and die()),
    ),
    "Ctrl-C": lambda: setattr(
        DomainLM, "training_step", on_call(9, DomainLM.training_step, interrupt)
    ),
    "in the last epoch": lambda: setattr(
        DomainLM, "training_step", on_call(17, DomainLM.training_step)
    ),
}


@pytest.mark.parametrize("place", CRASHES)
def test_killed_run_resumes_bit_for_bit(
    uninterrupted: Path, base: Path, root: Path, tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "run"

    def killed() -> None:
        CRASHES[place]()
        start(base, root, folder)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == (1 if place == "Ctrl-C" else -signal.SIGKILL)
    start(base, root, folder)

    def without_times(path: Path) -> list[dict[str, Any]]:
        rows = read_rows(path / "record.jsonl")
        return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in rows]

    assert without_times(folder) == without_times(uninterrupted)
    for name in ("last", "good"):
        ours, theirs = (
            torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for path in (folder, uninterrupted)
        )
        assert ours["trimlab"] == theirs["trimlab"]
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        assert all(torch.equal(ours["state_dict"][k], v) for k, v in theirs["state_dict"].items())
    ours, theirs = (
        (path / "models" / "0.5" / "model.safetensors").read_bytes()
        for path in (folder, uninterrupted)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("content", "message"), [(b"no checkpoint", "damaged"), (None, "not written by trimlab")]
)
def test_damaged_or_foreign_checkpoint(
    base: Path, root: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    folder = tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(
        target=lambda: (CRASHES["in the last epoch"](), start(base, root, folder))
    )
    process.start()
    process.join()
    last = folder / "checkpoints" / "last.ckpt"
    assert last.exists()
    if content is None:
        torch.save({"state_dict": {}}, last)
    else:
        last.write_bytes(content)
    with pytest.raises(InputError, match=message):
        start(base, root, folder)


def test_checkpoint_of_another_base_model(finished: Path, tmp_path: Path, tiny_folder: Any) -> None:
    from trimlab.run import restore

    other = DomainLM(str(tiny_folder(tmp_path, "llama")))
    with pytest.raises(InputError, match="whose weights are not those"):
        restore(other, finished / "checkpoints" / "good.ckpt")


def test_plain_text_domain(base: Path, tmp_path: Path) -> None:
    for name, count in (("train", 8), ("validation", 12), ("test", 8)):
        rows = [{"text": f"{name} {i}: abc abd the bee is in a hive {i * i}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = trimlab.trim(
        str(base),
        "text",
        tmp_path / "run",
        data={"root": tmp_path, "calibration_rows": 6, "dev_rows": 6, "batch_size": 4},
        run={"full_depth": False, "speed": False},
        trainer={"enable_progress_bar": False, "accelerator": "cpu"},
        max_drops=2,
        progress=False,
    )
    assert 0 < summary["trimmed"]["likelihood"] < 100
    assert summary["trimmed"]["n"] == 8
    assert summary["trimmed"]["tier"] in ("T1", "T2")


def test_a_full_disk_is_said_before_anything_is_written(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any,
    tiny_tokenizer: Any,
) -> None:  # fmt: skip
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10, 10, 0))
    stack = trimlab.SublayerStack(tiny_model("llama"))
    with pytest.raises(InputError, match="no room"):
        trimlab.save_packed(stack, tiny_tokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []

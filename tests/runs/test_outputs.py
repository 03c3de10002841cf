"""What a run leaves behind: sizes as they are on disk, types, paths, and checks at the start."""

import json
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import trimlab
from trimlab.algorithm import Trim
from trimlab.data.splits import read_test_items
from trimlab.data.task import load_task
from trimlab.errors import InputError
from trimlab.records.result_row import Test
from trimlab.runs.checks import check_outputs, checkpoint_bytes, export_bytes
from trimlab.runs.findings import _tests_of
from trimlab.runs.folder import RunFolder
from trimlab.runs.options import RunOptions, TrimFrom
from trimlab.runs.run_id import distinctive
from trimlab.runs.summary import print_summary
from trimlab.training.module import DomainLM

SMALL = {"calibration_rows": 15, "dev_rows": 15, "batch_size": 4}


def start(base: Path, root: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Trims a tiny model."""
    run = {"full_depth": False, "speed": False, **options.pop("run", {})}
    return trimlab.trim(
        str(base),
        "jsonl",
        folder,
        recipe="paper",
        model={"lr": 1e-2},
        data={"root": root, **SMALL},
        run=run,
        trainer={"enable_progress_bar": False, "accelerator": "cpu"},
        **({"progress": False} | options),
    )


def bytes_of(folder: Path, part: str = "") -> int:
    """Bytes of the tensors of a folder whose names contain a text."""
    weights = load_file(folder / "model.safetensors")
    return sum(weight.nbytes for name, weight in weights.items() if part in name)


@pytest.fixture(scope="module")
def zero_filled(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose export is of tier T2: one sublayer of eight is dropped."""
    folder = tmp_path_factory.mktemp("runs") / "zeros"
    start(base, root, folder, max_drops=1, run={"compare": ["sparsegpt"]})
    return folder


# ---- sizes --------------------------------------------------------------------------------------


def test_an_export_with_zeros_is_reported_as_it_is_on_disk(zero_filled: Path, base: Path) -> None:
    trimmed = RunFolder(zero_filled).read_summary().trimmed  # type: ignore[union-attr]
    assert trimmed.tier == "T2" and trimmed.folder is not None
    folder = Path(trimmed.folder)
    layers = bytes_of(folder, ".layers.") / bytes_of(base, ".layers.")
    assert trimmed.stored_layer_memory_ratio == pytest.approx(layers) == 1.0
    assert trimmed.stored_model_memory_ratio == pytest.approx(bytes_of(folder) / bytes_of(base))
    ((name,),) = [trimmed.dropped or []]
    parts = ("mlp", "post_attention_layernorm") if "mlp" in name else ("attn", "input_layernorm")
    gone = sum(bytes_of(base, part) for part in parts) / 4 / bytes_of(base, ".layers.")
    assert trimmed.layer_memory_ratio == pytest.approx(1 - gone)
    assert trimmed.packable_blocks == 3


def test_table_card_and_records_of_an_export_with_zeros(
    zero_filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    summary = RunFolder(zero_filled).read_summary()
    assert summary is not None and summary.trimmed.folder is not None
    print_summary(summary, zero_filled)
    said = capsys.readouterr().out
    kept = f"{100 * summary.trimmed.layer_memory_ratio:.1f} %"
    (row,) = (line for line in said.splitlines() if "trimmed, reloaded" in line)
    assert row.index("100.0 %") < row.index(kept)
    for heading in ("layers in folder", "model in folder", "layers kept", "model kept"):
        assert heading in said
    assert "the folder has 100.0 % of the layers and 100.0 % of the model" in said
    assert "with --trim.packable true: 3 blocks, and no zeros" in said
    card = (Path(summary.trimmed.folder) / "README.md").read_text()
    assert "| layer memory in this folder | 1 | 1.000 |" in card
    assert "stored as zeros" in card
    (test,) = _tests_of("trimmed", summary.trimmed, summary)
    assert isinstance(test, Test)
    assert test.to_row()["stored_layer_memory_ratio"] == 1.0
    assert test.layer_memory_ratio == summary.trimmed.layer_memory_ratio < 1


def test_a_baseline_of_a_model_with_zeros_is_measured_by_the_same_rule(zero_filled: Path) -> None:
    summary = RunFolder(zero_filled).read_summary()
    assert summary is not None
    (pruned,), trimmed = summary.compared["sparsegpt"], summary.trimmed
    assert pruned.of == "trimmed"
    for name in ("layer_memory_ratio", "model_memory_ratio", "stored_layer_memory_ratio"):
        assert getattr(pruned, name) == pytest.approx(getattr(trimmed, name)), name


def test_without_zeros_both_ratios_are_one_number(base: Path, root: Path, tmp_path: Path) -> None:
    trimmed = start(base, root, tmp_path / "run", packable=True, max_drops=2)["trimmed"]
    assert trimmed["tier"] == "T1" and trimmed["layer_memory_ratio"] == 0.75
    assert trimmed["stored_layer_memory_ratio"] == pytest.approx(0.75)
    ratio = bytes_of(Path(trimmed["folder"])) / bytes_of(base)
    assert trimmed["stored_model_memory_ratio"] == pytest.approx(ratio)
    assert trimmed["model_memory_ratio"] == pytest.approx(ratio)
    assert "packable_blocks" not in trimmed


# ---- types --------------------------------------------------------------------------------------


def plain_accuracy(folder: Path, root: Path, plain_scores: Any) -> str:
    """Correct answers of a folder as transformers loads it, with no type named."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    correct = ""
    for item in read_test_items(load_task("jsonl"), root):
        scores = torch.tensor(plain_scores(model, tokenizer, item))
        correct += str(int(scores.argmax() == item.gold))
    return correct


@pytest.mark.parametrize(
    ("dtype", "asked", "written"),
    [
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float16, "float32", torch.float32),
    ],
)
def test_the_type_of_an_export_and_its_accuracy(
    root: Path, tmp_path: Path, tiny_folder: Any, plain_scores: Any, dtype: torch.dtype, asked: str,
    written: torch.dtype,
) -> None:  # fmt: skip
    base = tiny_folder(tmp_path, dtype=dtype)
    run = {} if asked == "auto" else {"export_dtype": asked}
    trimmed = start(base, root, tmp_path / "run", packable=True, max_drops=2, run=run)["trimmed"]
    folder = Path(trimmed["folder"])
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {written}
    assert trimmed["dtype"] == json.loads((folder / "config.json").read_text())["dtype"]
    # the type leaves the ratios as they are
    assert trimmed["stored_layer_memory_ratio"] == pytest.approx(0.75)
    # where two choices are as good as equal, another order of summation may decide
    mine = trimmed["correct"]
    plain = plain_accuracy(folder, root, plain_scores)
    assert sum(a != b for a, b in zip(mine, plain, strict=True)) <= 1


def test_weights_that_float16_cannot_hold_are_written_as_float32(
    root: Path, tmp_path: Path, tiny_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_folder(tmp_path, dtype=torch.float32)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    run = {"export_dtype": "float16"}
    trimmed = start(base, root, tmp_path / "run", max_drops=1, run=run)["trimmed"]
    assert trimmed["dtype"] == "float32"
    assert "do not fit in torch.float16" in capsys.readouterr().err


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(InputError, match="one of auto, float32, bfloat16, float16, not int4"):
        RunOptions(export_dtype="int4")  # type: ignore[arg-type]


def test_the_option_counts_in_the_id_of_a_run_only_where_it_is_used() -> None:
    defaults = {"run": {"export_dtype": "auto"}}
    assert "export_dtype" not in distinctive(defaults, defaults)["run"]
    used = {"run": {"export_dtype": "bfloat16"}}
    assert distinctive(used, defaults)["run"]["export_dtype"] == "bfloat16"


# ---- the run folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("earlier", ["", "absolute", "from the working directory"])
def test_paths_in_a_copied_run_folder(zero_filled: Path, tmp_path: Path, earlier: str) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(zero_filled, copy)
    row = json.loads((copy / "summary.json").read_text())
    stored = row["trimmed"]["folder"]
    assert not Path(stored).is_absolute() and (copy / stored / "config.json").exists()
    assert str(zero_filled) not in (copy / "summary.json").read_text()
    if earlier:
        before = zero_filled if earlier == "absolute" else Path("runs/zeros")
        for model in (row["trimmed"], *row["models"]):
            model["folder"] = str(before / model["folder"])
        (copy / "summary.json").write_text(json.dumps(row))
    summary = RunFolder(copy).read_summary()
    assert summary is not None
    assert summary.trimmed.folder == str(copy / stored)
    assert summary.compared["sparsegpt"][0].folder == str(copy / "models" / "sparsegpt-trimmed")


def test_the_report_on_the_data_is_in_the_summary(zero_filled: Path) -> None:
    row = json.loads((zero_filled / "summary.json").read_text())
    assert row["data"]["sets"]["test"]["items"] == 24
    summary = RunFolder(zero_filled).read_summary()
    assert summary is not None and summary.data == row["data"]
    del row["data"]  # as in earlier versions
    assert type(summary).from_row(row).data is None


def without_permission(action: Any) -> str:
    """The message of an InputError, in a process whose user may write nowhere."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            action()
            said = "no error"
        except InputError as error:
            said = str(error)
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    return os.read(reader, 10_000).decode()


@pytest.mark.parametrize("part", ["", "checkpoints", "models"])
def test_a_folder_that_cannot_be_written_is_said_at_the_start(part: str) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to other users
        folder = Path(place) / "run"
        (folder / part).mkdir(parents=True)
        Path(place).chmod(0o755)
        folder.chmod(0o777)
        (folder / part).chmod(0o555)
        run = RunFolder(folder)
        said = without_permission(lambda: (run.make(), run.check_parts()))
        (folder / part).chmod(0o755)
    assert said.startswith(f"cannot write to the folder {folder / part}: Permission denied")


def test_a_disk_without_room_is_said_before_the_first_scan(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 200_000))
    with pytest.raises(InputError, match=r"needs up to 0\.00.* GB .*has room for 0\.0002 GB"):
        start(base, root, tmp_path / "run", max_drops=1)
    assert not (tmp_path / "run" / "record.jsonl").exists()


def test_fine_tuning_before_the_first_drop_needs_room_for_all_sublayers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, trim, usage = (
        DomainLM(str(base)),
        Trim(max_drops=1, r=0.25),
        namedtuple("usage", "free"),
    )
    summary: Any = SimpleNamespace(stopped_because=None, fine_tuned=None, models=None, data=None)
    run, layers = RunFolder(tmp_path), bytes_of(base, ".layers.")

    def check(free: int, trim_from: TrimFrom = "fine_tuned") -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(free))
        check_outputs(module, trim, RunOptions(tmp_path, trim_from=trim_from), run, summary, {})

    # two checkpoints of weights and two moments each, and the model that trimming starts from
    needed = 6 * layers + bytes_of(base)
    check(needed)
    with pytest.raises(InputError, match="and has room for"):
        check(needed - 1)
    check(needed - 1, "base")
    # that model is there, and is not replaced: trimming and its export are left
    (run.models / "full_depth").mkdir(parents=True)
    (run.models / "full_depth" / "model.safetensors").write_bytes(b"0" * 1000)
    summary.fine_tuned = {}
    needed = checkpoint_bytes(module, trim) + export_bytes(module, trim, torch.float32)
    check(needed)
    with pytest.raises(InputError, match="and has room for"):
        check(needed - 1)


def test_the_needed_room_is_more_than_what_a_run_leaves(zero_filled: Path, base: Path) -> None:
    module, trim = DomainLM(str(base)), Trim(max_drops=1)

    def on_disk(part: str, name: str) -> int:
        return sum(path.stat().st_size for path in (zero_filled / part).rglob(name))

    needed = export_bytes(module, trim, torch.float32)
    assert needed == bytes_of(base) <= on_disk("models", "0*/*.safetensors")  # with a header
    needed = checkpoint_bytes(module, trim)
    assert needed >= on_disk("checkpoints", "*.ckpt")
    assert export_bytes(module, trim, torch.bfloat16) == bytes_of(base) / 2


def test_ratios_that_would_share_a_folder_are_refused(
    base: Path, root: Path, tmp_path: Path
) -> None:
    options = {"target_layer_memory": 0.5, "save_at": [0.75, 0.75000001]}
    with pytest.raises(InputError, match=r"several ratios that are written as 0\.75"):
        start(base, root, tmp_path / "run", **options)


def test_a_tokenizer_that_cannot_be_saved_is_said_at_the_start(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise ValueError("not this one")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    with pytest.raises(InputError, match="tokenizer .* cannot|not saved .*not this one"):
        start(base, root, tmp_path / "run", max_drops=1)
    assert not (tmp_path / "run" / "record.jsonl").exists()


def test_a_shared_folder_that_cannot_be_made(base: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder .*file"):
        start(base, root, tmp_path / "run", max_drops=1, run={"shared": tmp_path / "file"})


def test_advice_of_a_check_at_the_start_can_be_followed(
    base: Path, root: Path, tmp_path: Path
) -> None:
    """The refused start has left a config, which is no run yet."""
    with pytest.raises(InputError, match=r"several ratios that are written as 0\.75"):
        start(base, root, tmp_path / "run", max_drops=1, save_at=[0.75, 0.75000001])
    assert start(base, root, tmp_path / "run", max_drops=1, save_at=[0.75])["trimmed"]


def test_a_run_with_little_left_needs_little_room(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(base, root, tmp_path / "run", max_drops=1)
    summary = tmp_path / "run" / "summary.json"
    row = json.loads(summary.read_text())
    summary.write_text(json.dumps({k: v for k, v in row.items() if k != "trimmed"}))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 0))
    assert start(base, root, tmp_path / "run", max_drops=1)["trimmed"] == row["trimmed"] | {
        "folder": str(tmp_path / "run" / row["trimmed"]["folder"])
    }

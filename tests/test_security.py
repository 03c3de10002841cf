"""Hostile files: none of their code runs, nothing is written elsewhere, pages show plain text."""

import io
import json
import os
import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.report import write_report
from tests.bundling.test_bundle import unbundle
from trimlab import cli
from trimlab.bundling import bundle as bundling
from trimlab.bundling.archive import ARCHIVE, MANIFEST
from trimlab.errors import InputError
from trimlab.model.loading import load_model
from trimlab.training.checkpoints import load_checkpoint

SCRIPT = "<script>alert(1)</script>"
SECRET = "a0b1c2d3" * 5  # forty characters, as a key of Weights & Biases has
GOLDEN = Path(__file__).parent / "golden" / "records"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    """What an unpickled bomb makes."""
    return tmp_path / "exploded"


@pytest.fixture
def pickles(exploded: Path) -> dict[str, bytes]:
    """The bomb as pickle, as torch writes it, and as NumPy does."""
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"trimlab": Bomb(exploded)}, zipped)
    torch.save({"trimlab": Bomb(exploded)}, legacy, _use_new_zipfile_serialization=False)
    pickled = pickle.dumps(Bomb(exploded))
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickled
    return {
        "pickle": pickled,
        "zip": zipped.getvalue(),
        "legacy": legacy.getvalue(),
        "npy": array,
    }


def code_and_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0), capsys.readouterr().err


# ---- pickles -------------------------------------------------------------------------------------


def test_the_bomb_is_one(pickles: dict[str, bytes], exploded: Path) -> None:
    pickle.loads(pickles["pickle"])
    assert exploded.exists()


def test_a_checkpoint_runs_nothing(
    pickles: dict[str, bytes], exploded: Path, tmp_path: Path
) -> None:
    for name, content in pickles.items():
        file = tmp_path / f"{name}.ckpt"
        file.write_bytes(content)
        with pytest.raises(InputError, match="damaged or no checkpoint"):
            load_checkpoint(file)
    assert not exploded.exists()


def test_a_run_keeps_no_secret_and_resumes_from_no_pickle(
    base: Path,
    root: Path,
    pickles: dict[str, bytes],
    exploded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("PIP_INDEX_URL", f"https://me:{SECRET}@example.com/simple")
    command = [
        *("fit", "--model.base", base, "--data.task", "jsonl", "--data.root", root),
        *("--data.calibration_rows", 8, "--data.dev_rows", 8, "--data.train_rows", 8),
        *("--run.dir", tmp_path / "run", "--run.full_depth", "false", "--run.trim_from", "base"),
        *("--run.speed", "false", "--trainer.accelerator", "cpu", "--trainer.max_steps", 1),
        *("--trim.target_layer_memory", 0.5),
    ]
    code, error = code_and_error(capsys, *command)
    assert code == 2 and "training ended before the stop rule" in error, error
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 3 and not any(SECRET.encode() in path.read_bytes() for path in written)
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert checkpoints
    for name in ("zip", "legacy"):
        for checkpoint in checkpoints:
            checkpoint.write_bytes(pickles[name])
        code, error = code_and_error(capsys, *command)
        assert (code, len(error.splitlines()) >= 1) == (2, True), error
    assert not exploded.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "MODEL", "--tasks", "jsonl", "--data.root", "ROWS"],
        ["export", "MODEL", "--to", "hf", "--out", "out"],
        ["compress", "sparsegpt", "MODEL", "--data.task", "jsonl", "--data.root", "ROWS"]
        + ["--out", "out"],
        ["chat", "MODEL"],
        ["fit", "--model.base", "MODEL", "--data.task", "jsonl", "--data.root", "ROWS"],
        ["bundle", "--base", "MODEL", "--out", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_pickled_weights_are_refused_by_every_verb(
    arguments: list[str],
    base: Path,
    root: Path,
    pickles: dict[str, bytes],
    exploded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in ("pytorch_model.bin", "model.pt", "adapter_model.bin", "consolidated.00.pth"):
        (folder / name).write_bytes(pickles["zip"])
    monkeypatch.chdir(tmp_path)
    places = {"MODEL": folder, "ROWS": root}
    code, error = code_and_error(capsys, *(places.get(a, a) for a in arguments))
    assert code == 2 and ("safetensors" in error or "holds no model" in error), error
    assert not exploded.exists()


def test_pickles_beside_safetensors_are_not_read(
    base: Path, pickles: dict[str, bytes], exploded: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    names = ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"]
    names += ["adapter_model.bin", "rng_state.pth", "vocab.pkl", "tokenizer.pkl", "tf_model.h5"]
    for name in names:
        (folder / name).write_bytes(pickles["zip"])
    code = f"import os; os.mkdir({str(exploded)!r})\n"
    for name in ("modeling_llama.py", "configuration_llama.py", "tokenization.py", "__init__.py"):
        (folder / name).write_text(code)
    generate = folder / "custom_generate" / "generate.py"
    generate.parent.mkdir()
    generate.write_text(code)
    model, tokenizer = load_model(str(folder))
    model.generate(**tokenizer("abc", return_tensors="pt"), max_new_tokens=1)
    assert not exploded.exists()


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy", "npy"])
def test_rows_in_a_pickle_are_refused(
    form: str,
    base: Path,
    pickles: dict[str, bytes],
    exploded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("rows.pkl", "rows.pt", "rows.npy", "rows.arrow", "rows.jsonl", "rows.json")
    for name in (*names, "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.jsonl.zip"):
        file = tmp_path / name
        file.write_bytes(pickles[form])
        arguments = ("--model", base, "--data.task", "jsonl", "--data.root", file)
        code, error = code_and_error(capsys, "data", "check", *arguments)
        assert code == 2 and name in error, error
    assert not exploded.exists()


# ---- paths ---------------------------------------------------------------------------------------


def _bundle(folder: Path, fill: Callable[[tarfile.TarFile], None]) -> Path:
    """A bundle with the archive that a function fills."""
    folder.mkdir()
    with tarfile.open(folder / f"{ARCHIVE}.000", "w:gz") as archive:
        fill(archive)
    digest = sha256((folder / f"{ARCHIVE}.000").read_bytes()).hexdigest()
    version = "{}.{}".format(*sys.version_info)
    (folder / MANIFEST).write_text(
        f"# trimlab bundle for Python {version}\n{digest}  {ARCHIVE}.000\n"
    )
    shutil.copyfile(Path(bundling.__file__).with_name(bundling.SCRIPT), folder / bundling.SCRIPT)
    return folder


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_an_archive_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    hostile: dict[str, list[tarfile.TarInfo]] = {
        "dots": [_member("../outside")],
        "root": [_member(str(outside))],
        "link": [_member("a", tarfile.SYMTYPE, str(tmp_path)), _member("a/outside")],
        "hard": [_member("a", tarfile.LNKTYPE, "/etc/passwd")],
    }
    for name, members in hostile.items():
        folder = _bundle(tmp_path / name, lambda a, m=members: [a.addfile(x) for x in m])  # type: ignore[misc]
        done = unbundle(folder, tmp_path / f"{name}-target", python=sys.executable)
        assert done.returncode == 1 and "is no file of a bundle" in done.stderr
        assert not outside.exists()
        assert not any(path.is_symlink() for path in (tmp_path / f"{name}-target").rglob("*"))
    manifest = (tmp_path / "dots" / MANIFEST).read_text()
    for part in ("../outside", f"{ARCHIVE}.000/../../outside", f"{ARCHIVE}.", "/etc/passwd"):
        (tmp_path / "dots" / MANIFEST).write_text(manifest.replace(f"{ARCHIVE}.000", part))
        done = unbundle(tmp_path / "dots", tmp_path / "other", python=sys.executable)
        assert done.returncode == 2 and "no part of a bundle" in done.stderr
        assert not (tmp_path / "other").exists()


# ---- pages ---------------------------------------------------------------------------------------


def test_pages_show_what_records_hold_as_text(tmp_path: Path) -> None:
    """Records with markup in every name, and a path where a file name is made of one."""
    place, out = tmp_path / "results", tmp_path / "a" / "b" / "out"
    place.mkdir()
    row = json.loads((GOLDEN / "table2.jsonl").read_text().splitlines()[0])
    texts = {"profile": f"../../../{SCRIPT}", "base": SCRIPT, "git_commit": SCRIPT}
    texts |= {"run": SCRIPT, "experiment": "table2"}
    row |= texts | {"cell": {SCRIPT: SCRIPT}, "hardware": {"cpu": SCRIPT}, "prompt": f"/{SCRIPT}"}
    row |= {"versions": {SCRIPT: SCRIPT}, "overrides": {"a": SCRIPT}}
    (place / "table2.jsonl").write_text(json.dumps(row) + "\n")
    write_report(out, place)
    shown = [out / "index.html", out / "RESULTS.md", *out.glob("tables/*.md")]
    assert len(shown) > 2
    for path in shown:
        text = path.read_text()
        assert SCRIPT not in text and "<!--" not in text.partition("<script>")[0], path
    inside = {path for path in tmp_path.rglob("*") if path.is_file()} - {place / "table2.jsonl"}
    assert all(path.is_relative_to(out) for path in inside)

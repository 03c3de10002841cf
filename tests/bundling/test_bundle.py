"""Bundles: what is packed, how it is cut and checked, and the environment that comes of it."""

import itertools
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors.torch import load_file

from trimlab import cli
from trimlab.bundling import check, wheels
from trimlab.bundling.archive import ARCHIVE, MANIFEST, write_archive
from trimlab.bundling.machine import Machine, read_have
from trimlab.bundling.model import copy_model
from trimlab.bundling.package import clone, write_package
from trimlab.bundling.rows import copy_rows
from trimlab.bundling.wheels import fetch_wheels, requirements_of
from trimlab.data.splits import read_row_sets
from trimlab.data.task import load_task
from trimlab.errors import InputError

NODE = "manylinux_2_28_x86_64"


def code_and_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0), capsys.readouterr().err


# ---- wheels -------------------------------------------------------------------------------------


def test_what_the_machine_lacks_is_fetched_and_nothing_else(
    index: Path, make_wheel: Any, tmp_path: Path
) -> None:
    alpha = [
        *("beta>=2", "epsilon>=1", 'gamma; python_version < "3.12"', 'delta; extra == "x"'),
        *('zeta; platform_machine == "x86_64"', 'eta; extra == "y"'),
    ]
    make_wheel(index, "alpha", requires=alpha)
    make_wheel(index, "beta", "3.0", requires=["iota<2"])
    for version in ("1.5", "2.0"):
        make_wheel(index, "iota", version)
    for name in ("gamma", "delta", "zeta", "eta"):
        make_wheel(index, name)
    own = make_wheel(tmp_path / "wheels", "trimlab", requires=["alpha[x]", "torch>=2.11,<2.14"])
    have: dict[str, Version | None] = {
        "torch": Version("2.11.0+cu130"),
        "beta": Version("1.0"),  # too old
        "epsilon": None,  # of a version that is not known
    }
    packed = fetch_wheels(own, [Requirement("trimlab")], Machine("3.12", (NODE,), have))
    found = dict(path.name.split("-")[:2] for path in packed.wheels.values())
    assert found.pop("trimlab") == "1.0"
    assert found == {"alpha": "1.0", "beta": "3.0", "iota": "1.5", "delta": "1.0", "zeta": "1.0"}
    assert sorted(own.parent.iterdir()) == sorted(packed.wheels.values())
    assert any("beta 1.0 does not fit" in note for note in packed.notes)


def test_a_package_without_a_wheel_is_named(index: Path, make_wheel: Any, tmp_path: Path) -> None:
    own = make_wheel(tmp_path / "wheels", "trimlab", requires=["nowhere"])
    with pytest.raises(InputError, match=r"no wheel of nowhere for Python 3\.12"):
        fetch_wheels(own, [Requirement("trimlab")], Machine("3.12", (NODE,)))


def test_markers_are_those_of_the_machine() -> None:
    text = b'Requires-Dist: a; python_version < "3.12"\nRequires-Dist: b; sys_platform == "linux"\n'
    old, new = Machine("3.11", (NODE,)), Machine("3.12", ("manylinux_2_28_aarch64",))
    assert [r.name for r in requirements_of(text, Requirement("x"), old)] == ["a", "b"]
    assert [r.name for r in requirements_of(text, Requirement("x"), new)] == ["b"]
    assert new.environment()["platform_machine"] == "aarch64"


def test_older_platforms_are_usable_too() -> None:
    options = Machine("3.12", (NODE,)).pip_options()
    platforms = [b for a, b in itertools.pairwise(options) if a == "--platform"]
    assert platforms[:2] == ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"]
    assert {"manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux1_x86_64"} < set(platforms)


def test_what_pip_lists_is_read(tmp_path: Path) -> None:
    text = "torch==2.11.0+cu130\nmine @ file:///x\n-e git+https://y\n# z\n"
    (tmp_path / "node.txt").write_text(text)
    assert read_have(tmp_path / "node.txt") == {"torch": Version("2.11.0+cu130"), "mine": None}


def test_lists_of_other_characters_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list.txt"
    for content in (b"\xfftorch==2.0\n", b"a b c\n"):
        file.write_bytes(content)
        assert check.main(str(file)) == 1
        assert capsys.readouterr().err.startswith(f"unbundle: {file} is damaged")
        with pytest.raises(InputError, match=r"not UTF-8|lists no package"):
            read_have(file)


# ---- package, model, rows ------------------------------------------------------------------------


def test_the_package_is_a_wheel_with_all_of_it(tmp_path: Path) -> None:
    wheel = write_package(tmp_path, clone())
    first = wheel.read_bytes()
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        about = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert write_package(tmp_path, clone()).read_bytes() == first
    assert {"trimlab/cli.py", "trimlab/bundling/unbundle.sh", "baselines/awq.py"} < set(names)
    assert "analysis/paper_values/table2_main.csv" in names
    assert not any("__pycache__" in name for name in names)
    assert 'Requires-Dist: lm-eval<0.5,>=0.4.13; extra == "lm-eval"' in about


def test_a_model_keeps_its_weights_or_halves_them(base: Path, tmp_path: Path) -> None:
    copy_model(str(base), tmp_path / "same")
    copy_model(str(base), tmp_path / "half", "float16")
    weights = load_file(base / "model.safetensors")
    same, half = (load_file(tmp_path / n / "model.safetensors") for n in ("same", "half"))
    assert all(torch.equal(same[name], weight) for name, weight in weights.items())
    assert all(torch.equal(half[name], weight.half()) for name, weight in weights.items())
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    assert (tmp_path / "half" / "tokenizer.json").exists()


def test_a_weight_beyond_the_type_is_refused(tiny_folder: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tiny_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight .* --dtype bfloat16"):
        copy_model(str(folder), tmp_path / "half", "float16")


def write_rows(folder: Path, splits: Sequence[str], rows: Sequence[Any]) -> None:
    folder.mkdir(parents=True)
    for split in splits:
        lines = "".join(json.dumps(row | {"split": split}) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)


def test_rows_are_read_where_they_were_copied_to(root: Path, tmp_path: Path) -> None:
    task = load_task("jsonl")
    assert copy_rows("jsonl", root, tmp_path) is None
    there = read_row_sets(task, tmp_path, calibration=8, dev=8)
    assert there.fingerprints() == read_row_sets(task, root, calibration=8, dev=8).fingerprints()


def test_all_parts_of_a_mixture_are_copied(tmp_path: Path) -> None:
    for subject in ("jurisprudence", "international_law", "professional_law"):
        write_rows(tmp_path / "mmlu" / subject, ["validation", "test"], [{"question": "?"}])
    copy_rows("mmlu_law", tmp_path, tmp_path / "data")
    found = {p.relative_to(tmp_path / "data").as_posix() for p in tmp_path.glob("data/**/*.jsonl")}
    assert "mmlu/jurisprudence/test.jsonl" in found
    assert len(found) == 6


def test_a_task_without_rows_says_what_to_bring(tmp_path: Path) -> None:
    assert "--packages" in str(copy_rows("icd10cm", None, tmp_path))


# ---- archive ------------------------------------------------------------------------------------


def test_parts_join_to_the_same_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    content = torch.randint(0, 256, (250_000,), dtype=torch.uint8).numpy().tobytes()
    (tree / "a" / "weights").write_bytes(content)
    sums = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sums.append(write_archive(tree, tmp_path / name, 100_000))
    assert sums[0] == sums[1]
    parts = [tmp_path / "one" / name for name in sums[0]]
    assert [p.stat().st_size for p in parts][:-1] == [100_000, 100_000]
    joined = BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=joined, mode="r:gz") as archive:
        file = archive.extractfile("a/weights")
        assert file is not None
        assert file.read() == content


# ---- the whole ----------------------------------------------------------------------------------


@pytest.fixture
def bundle(
    base: Path, root: Path, index: Path, make_wheel: Any, tmp_path: Path
) -> tuple[Path, list[str]]:
    """A bundle for this machine, and the command that made it."""
    make_wheel(index, "trimlab_test_alpha", requires=["trimlab-test-beta"])
    make_wheel(index, "trimlab_test_beta", "2.0")
    have = "".join(f"{d.name}=={d.version}\n" for d in metadata.distributions())
    (tmp_path / "have.txt").write_text(have)
    command = [
        *("bundle", "--base", str(base), "--dtype", "bfloat16", "--tasks", "jsonl"),
        *("--data.root", str(root), "--packages", "trimlab-test-alpha"),
        *("--have", str(tmp_path / "have.txt"), "--part-mb", "0.1", "--out", str(tmp_path / "out")),
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert not stop.value.code
    return tmp_path / "out", command


def unbundle(bundle: Path, *target: object, python: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        ["sh", str(bundle / "unbundle.sh"), *map(str, target)],
        env=environment | {"PYTHON": str(python), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_environment_comes_of_it(bundle: Any, node: Path, tmp_path: Path) -> None:
    out, _ = bundle
    assert all(path.stat().st_size <= 100_000 for path in out.iterdir())
    done = unbundle(out, tmp_path / "there", python=node)
    assert done.returncode == 0, done.stderr
    assert "env/bin/trimlab fit --model.base models/tiny-llama --data.task jsonl" in done.stdout
    there = tmp_path / "there"
    code = "import trimlab_test_beta, trimlab, baselines; print(trimlab_test_beta.VERSION); "
    code += "print(trimlab.__file__); print(baselines.__file__)"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = [str(there / "env" / "bin" / "python"), "-c", code]
    said = subprocess.run(
        python, env=env, cwd=there, check=True, capture_output=True, text=True
    ).stdout.split()
    assert said[0] == "2.0"
    assert all(path.startswith(str(there / "env")) for path in said[1:])
    assert (there / "models" / "tiny-llama" / "model.safetensors").exists()
    assert (there / "data" / "jsonl" / "train.jsonl").exists()
    assert (there / "experiments" / "sciq.yaml").exists()
    again = unbundle(out, there, python=node)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_a_damaged_or_missing_part_is_named(bundle: Any, tmp_path: Path) -> None:
    out, _ = bundle
    part = out / f"{ARCHIVE}.001"
    content = bytearray(part.read_bytes())
    content[1000] ^= 1
    part.write_bytes(content)
    (out / f"{ARCHIVE}.000").unlink()
    done = unbundle(out, tmp_path / "there", python=sys.executable)
    assert done.returncode == 2
    assert f"{ARCHIVE}.000 is missing" in done.stderr
    assert f"{ARCHIVE}.001 is damaged" in done.stderr
    assert not (tmp_path / "there").exists()
    (out / MANIFEST).unlink()
    done = unbundle(out, tmp_path / "there", python=sys.executable)
    assert (done.returncode, "MANIFEST is missing" in done.stderr) == (2, True)


def test_another_python_is_refused(bundle: Any, tmp_path: Path) -> None:
    out, _ = bundle
    manifest = (out / MANIFEST).read_text()
    (out / MANIFEST).write_text("# trimlab bundle for Python 3.99\n" + manifest.partition("\n")[2])
    done = unbundle(out, tmp_path / "there", python=sys.executable)
    assert done.returncode == 2
    assert "the bundle is for Python 3.99" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--python", "three"], "must be a version such as 3.12"),
        (["--platform", "windows"], "is no platform of Linux wheels"),
        (["--have", "nowhere.txt"], "pip list --format=freeze"),
        (["--tasks", "scique"], "no task 'scique'"),
        (["--part-mb", "0.01"], "--part-mb must be at least 0.1"),
        (["--packages", "a b"], "is no requirement"),
        (["--tasks", "sciq", "--data.root", "nowhere"], "no file"),
    ],
)
def test_bad_input_costs_no_download(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(wheels, "run_pip", lambda *_: pytest.fail("pip was run"))
    code, error = code_and_error(capsys, "bundle", "--out", tmp_path / "out", *options)
    assert code == 2
    assert says in error
    assert len(error.splitlines()) == 1


def test_a_folder_with_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("")
    code, error = code_and_error(capsys, "bundle", "--out", tmp_path)
    assert code == 2
    assert "mine.txt, which is no bundle" in error

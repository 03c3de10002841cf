"""A bundle: package, wheels, model, rows and experiments for a machine without a network.

On disk it is an archive in parts, their checksums (`MANIFEST`) and a script that unpacks them
(`unbundle.sh`). The archive holds

    wheels/             what is installed there
    requirements.txt    what must be importable in the end
    models/NAME/        the base model, a Hugging Face folder
    data/TASK/          rows, the `data.root` of the machine
    experiments/        from a clone, beside tests/
    RUN                 the command to run
"""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from trimlab.bundling.archive import ARCHIVE, MANIFEST, write_archive
from trimlab.bundling.machine import Machine
from trimlab.bundling.model import copy_model
from trimlab.bundling.package import NAME, clone, write_package
from trimlab.bundling.rows import copy_rows
from trimlab.bundling.wheels import Packed, fetch_wheels
from trimlab.errors import InputError
from trimlab.files import check_writable, write_text

SCRIPT = "unbundle.sh"
_STAGING = ".tree.part"
_SMALLEST = 100_000  # bytes of a part: the script is one, too


@dataclass(frozen=True)
class Content:
    """What a bundle holds beside the package.

    Attributes:
        machine: The machine that it is for.
        base: Base model, as for `load_model`; may be None.
        dtype: Type of the model's weights; as they are stored if None.
        tasks: Names of tasks.
        data_root: Folder of their rows; the hub if None.
        extras: Extras of trimlab.
        packages: Requirements of further packages.
    """

    machine: Machine
    base: str | None = None
    dtype: str | None = None
    tasks: Sequence[str] = ()
    data_root: Path | None = None
    extras: Sequence[str] = ()
    packages: Sequence[str] = ()

    def requirements(self) -> list[Requirement]:
        """What the machine must have in the end.

        Raises:
            InputError: A package's requirement cannot be read.
        """
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        found = [Requirement(NAME + extras)]
        for text in self.packages:
            try:
                found.append(Requirement(text))
            except InvalidRequirement as error:
                raise InputError(f"--packages {text!r} is no requirement: {error}") from error
        return found


def write_bundle(content: Content, out: Path, part_bytes: int) -> list[str]:
    """Writes a bundle.

    Args:
        content: What it holds.
        out: Its folder. An earlier bundle there is replaced.
        part_bytes: Bytes of a file of the bundle, at most.

    Returns:
        Sentences for the user.

    Raises:
        InputError: Something that it shall hold is not there, or the folder holds something else.
    """
    if part_bytes < _SMALLEST:
        raise InputError(f"--part-mb must be at least {_SMALLEST / 1e6:g}")
    requirements = content.requirements()
    with _staging(out) as tree:
        # rows and model first: a wrong name costs no download
        missing = [copy_rows(task, content.data_root, tree / "data") for task in content.tasks]
        repository = clone()
        if content.base is not None:
            copy_model(content.base, tree / "models" / _folder_name(content.base), content.dtype)
        packed = _write_wheels(content, requirements, repository, tree)
        if repository is not None:
            _copy_sources(repository, tree)
        write_text(
            tree / "RUN", "".join(f"{line}\n" for line in _commands(content, repository, tree))
        )
        sums = write_archive(tree, out, part_bytes)
    write_text(out / SCRIPT, Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8"))
    head = f"# trimlab bundle for Python {content.machine.python}\n"
    lines = (f"{digest}  {name}\n" for name, digest in sums.items())
    write_text(out / MANIFEST, head + "".join(lines))
    return [*packed.notes, *filter(None, missing)]


def _write_wheels(
    content: Content, requirements: Sequence[Requirement], repository: Path | None, tree: Path
) -> Packed:
    wheels = tree / "wheels"
    wheels.mkdir()
    packed = fetch_wheels(write_package(wheels, repository), requirements, content.machine)
    text = "".join(f"{requirement}\n" for requirement in requirements)
    write_text(tree / "requirements.txt", text)
    return packed


def _copy_sources(repository: Path, tree: Path) -> None:
    """Copies what is run from its folder: experiments, and the tests of what needs a GPU."""
    for name in ("experiments", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, tree / name, ignore=ignored)
    shutil.copyfile(repository / "pyproject.toml", tree / "pyproject.toml")  # settings of pytest


def _folder_name(base: str) -> str:
    return Path(base.partition("@")[0]).expanduser().resolve().name


def _commands(content: Content, repository: Path | None, tree: Path) -> Iterator[str]:
    """Commands to run on the machine, in the folder of the unpacked bundle."""
    # an embedded task brings its rows itself
    root = ["--data.root", "data"] if (tree / "data").is_dir() else []
    base = f"models/{_folder_name(content.base)}" if content.base else None
    if base and content.tasks:
        options = ["--model.base", base, "--data.task", content.tasks[0], *root]
        options += ["--trim.target_layer_memory", "0.5", "--run.dir", f"runs/{content.tasks[0]}"]
        yield f"env/bin/trimlab fit {shlex.join(options)}"
    else:
        yield "env/bin/trimlab --help"
    if repository is not None:
        options = [*(["--base", base] if base else []), *root]
        yield shlex.join(["env/bin/python", "experiments/gpu_check.py", "--out", "check", *options])


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """An empty folder for what is archived, in the folder of the bundle.

    Raises:
        InputError: The folder of the bundle holds something that is no bundle, or cannot be
            written.
    """
    check_writable(out)
    ours = (MANIFEST, SCRIPT)
    for path in out.iterdir():
        if path.name not in ours and not path.name.startswith((ARCHIVE, ".")):
            raise InputError(f"{out} holds {path.name}, which is no bundle; choose another folder")
    (out / MANIFEST).unlink(missing_ok=True)  # first: without it the rest is no bundle
    for path in out.glob(f"{ARCHIVE}.*"):
        path.unlink()
    tree = out / _STAGING
    shutil.rmtree(tree, ignore_errors=True)
    try:
        tree.mkdir()
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)

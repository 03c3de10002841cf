"""Bundles: the manifest and the archive that `unbundle.sh` unpacks, and lists of packages."""

import hashlib
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from random import Random

from tests.fuzzing._mutation import mutated_bytes
from tests.fuzzing._target import Attempt
from trimlab.bundling import bundle as bundling
from trimlab.bundling.archive import MANIFEST, write_archive
from trimlab.bundling.check import main
from trimlab.bundling.machine import read_have
from trimlab.errors import InputError

SCRIPT = Path(bundling.__file__).with_name(bundling.SCRIPT)
HAVE = b"torch==2.11.0+cu130\nmine @ file:///x\n-e git+https://y\n# z\nPyYAML==6.0\n"
# a Python that makes no environments: what comes behind the archive is not of interest
PYTHON = f"""#!/bin/sh
case "$*" in *venv*|*pip*) echo "no such module" >&2; exit 1;; esac
exec {sys.executable} "$@"
"""


def prepare(folder: Path) -> Attempt:
    """Mutates the manifest, a part with its checksum, or a list of packages."""
    tree, out, target = folder / "tree", folder / "bundle", folder / "target"
    for path in (tree / "wheels" / "a.whl", tree / "RUN", tree / "requirements.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("env/bin/trimlab --help\n")
    out.mkdir()
    sums = write_archive(tree, out, 100_000)
    (part,) = sums
    content = (out / part).read_bytes()
    version = "{}.{}".format(*sys.version_info)
    shutil.copyfile(SCRIPT, out / SCRIPT.name)
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def manifest(digest: str) -> bytes:
        return f"# trimlab bundle for Python {version}\n{digest}  {part}\n".encode()

    def unbundle(random: Random) -> None:
        archive, lines = content, manifest(sums[part])
        if random.random() < 0.5:
            archive = mutated_bytes(random, content)
            lines = manifest(hashlib.sha256(archive).hexdigest())
        else:
            lines = mutated_bytes(random, lines)
        (out / part).write_bytes(archive)
        (out / MANIFEST).write_bytes(lines)
        shutil.rmtree(target, ignore_errors=True)
        _check(out / SCRIPT.name, target, python)

    def attempt(random: Random) -> None:
        kind = random.random()
        if kind < 0.1:
            unbundle(random)
        elif kind < 0.55:
            (folder / "have.txt").write_bytes(mutated_bytes(random, HAVE))
            read_have(folder / "have.txt")
        else:
            (folder / "requirements.txt").write_bytes(mutated_bytes(random, b"pip>=1\npytest\n"))
            main(str(folder / "requirements.txt"))

    return attempt


def _check(script: Path, target: Path, python: Path) -> None:
    """Runs the script, which must end with its own line on standard error."""
    done = subprocess.run(
        ["sh", str(script), str(target)],
        env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    last = BytesIO(done.stderr).readlines()[-1:]
    if done.returncode not in (1, 2) or not last[0].startswith(b"unbundle: "):
        raise AssertionError(f"code {done.returncode}: {done.stderr[-300:]!r}")
    if b"Traceback" in done.stderr:
        raise AssertionError(f"traceback: {done.stderr[-300:]!r}")
    raise InputError("refused")

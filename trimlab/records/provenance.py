"""Where a number comes from: code version, package versions and hardware."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from trimlab.records.rows import JsonObject

PACKAGES = (
    *("trimlab", "torch", "transformers", "lightning", "tokenizers", "datasets", "numpy"),
    *("lm_eval", "bitsandbytes", "gptqmodel"),  # peers
)


def provenance() -> JsonObject:
    """Code version, package versions and hardware of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    hardware: JsonObject = {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": _gpu_name(),
        "python": platform.python_version(),
    }
    if at_once := os.environ.get("TRIMLAB_RUNS_AT_ONCE"):  # they share the machine: times differ
        hardware["runs_at_once"] = int(at_once)
    return {
        "git_commit": git_commit(Path(__file__).parents[2]),
        "versions": versions,
        "hardware": hardware,
    }


def git_commit(repository: Path) -> str | None:
    """The commit of the code in a folder, `-dirty` where the code differs from it.

    Args:
        repository: Folder that holds the package `trimlab`.

    Returns:
        None where the package is in no repository, or in somebody else's.
    """

    def git(*arguments: str) -> str:
        # nothing is locked: a killed run would leave the lock, which stops the user's next commit
        command = ["git", "--no-optional-locks", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "trimlab/__init__.py")  # not somebody else's repository
        # what a sweep appends to its records, and prose, are not the code that measured; but a
        # scorer or a task that nobody has added is, since its file alone makes it known
        changed = git("status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)*.md")
        code = ("trimlab", "baselines", "experiments", "pyproject.toml", "constraints.txt")
        dirty = [
            line
            for line in changed.splitlines()
            if not line.startswith("??") or line[3:].startswith(code)
        ]
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), None)


def _gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None

"""The run record: JSON lines with everything needed to trust a number."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# fields that measure this execution and not the algorithm: a resumed run has others
TIMING_FIELDS = frozenset({"seconds", "scan_seconds", "peak_rss_bytes", "latency_ms"})
PACKAGES = ("trimlab", "torch", "transformers", "lightning", "tokenizers", "datasets", "numpy")


def config_hash(config: Row) -> str:
    """Short sha256 of a resolved config; the order of its keys does not matter."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance() -> Row:
    """Code version, package versions and hardware of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "git_commit": _git_commit(),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "gpu": _gpu_name(),
            "python": platform.python_version(),
        },
    }


def read_rows(path: Path) -> list[Row]:
    """Rows of a record, without a last line that a killed process left half-written."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def append_row(path: Path, row: Row) -> None:
    """Appends one row and makes sure that it is on disk."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def rewind(path: Path, rows: Iterable[Row]) -> None:
    """Takes a record back to the rows of the checkpoint that a run resumes from."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, or none of it."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
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

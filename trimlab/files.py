"""Files and folders that are there as a whole, or not at all."""

import os
from pathlib import Path


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


def is_replaceable(folder: Path) -> bool:
    """Whether nothing but an earlier model is lost when another takes the folder's place."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    model = "config.json" in names and any(name.endswith(".safetensors") for name in names)
    return model or not names

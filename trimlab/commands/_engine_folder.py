"""The folder of a model for an engine, and the engine that runs it."""

from pathlib import Path
from typing import TYPE_CHECKING

from trimlab.errors import InputError
from trimlab.files import exists

if TYPE_CHECKING:
    from trimlab.engines._engine import Engine


def engine_folder(name: str) -> Path:
    """The folder of a model.

    Args:
        name: A folder in any format that `trimlab export` writes, a file in one, or another name
            of a model.

    Raises:
        InputError: There is no such model.
    """
    from trimlab.model.loading import model_folder

    if not exists(name):
        return model_folder(name)
    path = Path(name).expanduser()
    return path if path.is_dir() else path.parent


def engine_of(folder: Path, asked: str | None) -> "Engine":
    """The engine that is to run a folder, which is installed.

    Args:
        folder: The folder.
        asked: Name of an engine; None for the one that reads the files.

    Raises:
        InputError: There is no such engine, it is not installed, or no engine reads the folder.
    """
    from trimlab.engines._engine import engine_for, engine_names, load_engine

    engine = engine_for(folder) if asked is None else load_engine(asked)
    if engine is None:
        raise InputError(f"{folder} holds no model for any of {', '.join(engine_names())}")
    engine.check()
    return engine

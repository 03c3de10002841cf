"""The interface of engines.

An engine is one file in this folder that defines one subclass of `Engine`. Its name is the file's,
with `.` for `_`: `llama.cpp`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimlab.errors import InputError
from trimlab.plugins import plugin_class, plugin_module, plugin_names

ENGINES = "trimlab.engines"
DECILM_CODE = "configuration_decilm.py"  # in folders of nemotron-nas


class LoadedModel(ABC):
    """A model in the memory of its engine; a context manager that frees it.

    Attributes:
        engine: Name of the engine that runs it.
        dtype: The type that it computes in.
    """

    engine: str
    dtype: torch.dtype

    @abstractmethod
    def logits(self, ids: Tensor, first: int = 0) -> Tensor:
        """Logits of a text, up to a constant per position.

        Args:
            ids: Token ids.  # (1, T)
            first: The first position whose logits are wanted.

        Returns:
            Logits on the CPU.  # (1, T - first, V)
        """

    def log_probs(self, ids: Tensor, first: int = 1) -> Tensor:
        """Log-probabilities of a text's own tokens, each given those before it.

        Args:
            ids: Token ids.  # (1, T)
            first: The first token whose log-probability is wanted, at least 1.

        Returns:
            Natural logarithms on the CPU.  # (T - first,)
        """
        found = self.logits(ids[:, :-1], first - 1)[0]
        found = found.to(torch.promote_types(found.dtype, torch.float32)).log_softmax(-1)
        return found.gather(1, ids[0, first:, None]).squeeze(1)

    @abstractmethod
    def decode(self, prompt_ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """Continues a prompt greedily, with the engine's KV cache.

        Args:
            prompt_ids: Token ids of the prompt, at least one.
            new_tokens: How many tokens to generate; an end-of-text token does not stop it.

        Yields:
            The ids of the new tokens, each as soon as it is known.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the memory of the model."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Engine(ABC):
    """A program that runs exported models.

    Attributes:
        package: The import package that it needs.
        extra: The extra of trimlab that installs the package.
        weights: Pattern of the names of the files that it reads weights from.
    """

    package: ClassVar[str]
    extra: ClassVar[str]
    weights: ClassVar[str]

    @property
    def name(self) -> str:
        """The engine's name."""
        return type(self).__module__.rpartition(".")[2].replace("_", ".")

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return find_spec(self.package) is not None

    def check(self) -> None:
        """Refuses an engine that is not installed.

        Raises:
            InputError: Its package is missing.
        """
        if not self.installed:
            raise InputError(
                f"{self.package} is not installed: pip install 'trimlab[{self.extra}]'"
            )

    def reads(self, folder: Path) -> bool:
        """Whether a folder holds files of its format."""
        return any(folder.glob(self.weights))

    @abstractmethod
    def load(
        self, folder: Path, *, threads: int | None = None, dtype: torch.dtype | None = None
    ) -> LoadedModel:
        """Loads an exported model.

        Args:
            folder: Its folder.
            threads: Threads to compute with; None for the engine's default.
            dtype: The floating-point type to compute in, where the engine has a choice; None for
                its default with these weights.

        Raises:
            InputError: The engine is not installed, or the folder holds no model for it.
        """


def engine_names() -> list[str]:
    """Names of the engines, installed or not."""
    return [name.replace("_", ".") for name in plugin_names(ENGINES)]


def load_engine(name: str) -> Engine:
    """Makes an engine.

    Args:
        name: One of `engine_names()`.

    Raises:
        InputError: There is no such engine.
    """
    if name not in engine_names():
        raise InputError(f"no engine {name!r}; there are {', '.join(engine_names())}")
    return plugin_class(plugin_module(ENGINES, name.replace(".", "_"), "engine"), Engine)()


def engine_for(folder: Path) -> Engine | None:
    """The engine that reads a folder, the first one whose files are there; None if none does.

    Args:
        folder: The folder of a model.
    """
    return next((found for found in map(load_engine, engine_names()) if found.reads(folder)), None)


def weights_file(folder: Path, engine: Engine) -> Path:
    """The one file with the weights of a model.

    Args:
        folder: The model's folder.
        engine: The engine that is to read it.

    Raises:
        InputError: There is none, or several.
    """
    found = sorted(folder.glob(engine.weights))
    if len(found) != 1:
        raise InputError(f"{folder} must hold one file {engine.weights}, and holds {len(found)}")
    return found[0]

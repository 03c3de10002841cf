"""What a method that trimming is compared with has to do: the interface of `baselines/`.

A baseline is one file of that folder that defines one subclass of `Baseline`; the file's name is
the method's name. It reads a model and writes a smaller one, as a folder that can be loaded again:
what is reported is measured on what was written.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel

from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.files import is_replaceable
from trimlab.model.loading import load_model
from trimlab.model.sizes import Stored, stored_sizes
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import from_a_clone, plugin_class, plugin_module, plugin_names

# as many as in the papers of GPTQ and SparseGPT, where they have 2,048 tokens each
CALIBRATION_TEXTS = 128

BASELINES = "baselines"


# token ids of training texts, each with its right answer
Texts = Sequence[Sequence[int]]


def texts_of(items: Iterable[EncodedItem]) -> Texts:
    """Training items as texts: encoded, they lack their last token, which predicts nothing."""
    return [(*item.tokens, item.targets[-1]) for item in items]


class Baseline(ABC):
    """One way to make a language model smaller.

    Attributes:
        title: Its name in papers.
        before_training: Whether it changes a model's structure, and fine-tuning follows; else it
            compresses weights that are fine-tuned already.
        library: The library that does it, if it is not trimlab's own doing.
    """

    title: ClassVar[str]
    before_training: ClassVar[bool] = False
    library: ClassVar[str | None] = None

    def check(self, stack: SublayerStack) -> None:  # noqa: B027 (most take any model)
        """Refuses a model that the method cannot do, before anything is spent on it.

        Raises:
            InputError: The method does not know this kind of model.
        """

    @abstractmethod
    def compress(self, model: str, texts: Texts, folder: Path) -> None:
        """Writes a smaller model.

        Args:
            model: A local folder, an embedded model or a hub id, as for `load_model`.
            texts: Calibration texts.
            folder: Where to write; it exists and is empty.
        """

    def load(self, folder: Path) -> PreTrainedModel:
        """Loads what `compress` has written, as its users would."""
        return load_model(str(folder))[0]


def baseline_names() -> list[str]:
    """The baselines there are: the names of the files in `baselines/`.

    Raises:
        InputError: There is no such folder: it is not in the package, but in a clone.
    """
    from_a_clone(BASELINES)
    return plugin_names(BASELINES)


def baseline_docs() -> dict[str, str]:
    """What each baseline is, in a line; none of their libraries has to be there."""
    modules = {name: plugin_module(BASELINES, name, "baseline") for name in baseline_names()}
    return {name: (m.__doc__ or "").partition("\n")[0] for name, m in modules.items()}


def baseline_class(name: str) -> type[Baseline]:
    """The class of a baseline.

    Args:
        name: A file in `baselines/`, such as `sparsegpt`.

    Raises:
        InputError: There is no such baseline, or its library is not installed.
    """
    from_a_clone(BASELINES)
    found = plugin_class(plugin_module(BASELINES, name, "baseline"), Baseline)
    if found.library is not None and find_spec(found.library) is None:
        raise InputError(
            f"{name} needs {found.library}, which is not installed: "
            "pip install 'trimlab[baselines]'"
        )
    return found


def write_compressed(
    baseline: Baseline, model: str, texts: Texts, folder: Path, tokenizer: Any
) -> "Stored":
    """Lets a baseline write its model; the folder appears under its name when it is whole.

    Args:
        baseline: The method.
        model: What is compressed.
        texts: Calibration texts.
        folder: Where to write; another model there is replaced.
        tokenizer: The model's tokenizer, saved beside it.

    Returns:
        What the new model takes in memory.

    Raises:
        InputError: Something else stands in the place, or the method cannot do this model.
    """
    folder = folder.absolute()
    if folder.resolve() == Path(model).resolve():
        raise InputError(f"{folder} is the model itself; choose another folder")
    if folder.exists() and not is_replaceable(folder):
        raise InputError(f"{folder} is not empty and holds no model; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left
    part.mkdir()
    try:
        baseline.compress(model, texts, part)
        tokenizer.save_pretrained(part)
        stored = stored_sizes(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return stored

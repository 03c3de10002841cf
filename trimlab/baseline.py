"""The interface of `baselines/`: methods that trimming is compared with.

A baseline is one file of that folder that defines one subclass of `Baseline`; the file's name is
the method's name. It reads a model and writes a smaller one as a folder, which is loaded again for
all measurements.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel

from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError
from trimlab.files import atomic_folder
from trimlab.model.device import Placement, find_placement
from trimlab.model.loading import load_model
from trimlab.model.sizes import StoredSizes, stored_sizes
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import from_a_clone, plugin_class, plugin_module, plugin_names

BASELINES = "baselines"

# number of texts in the papers of GPTQ and SparseGPT, of 2,048 tokens each
CALIBRATION_TEXTS = 128

# token ids of each calibration text, with the right answer
CalibrationTokens = Sequence[Sequence[int]]


def calibration_tokens(items: Iterable[EncodedItem]) -> CalibrationTokens:
    """Token ids of whole training items.

    `EncodedItem.tokens` lacks the last token, which predicts nothing; it is added here.
    """
    return [(*item.tokens, item.targets[-1]) for item in items]


class Baseline(ABC):
    """One way to make a language model smaller.

    Attributes:
        title: Its name in papers.
        before_training: Whether it changes a model's structure and is followed by fine-tuning;
            otherwise it compresses fine-tuned weights.
        library: The library that implements it, or None.
    """

    title: ClassVar[str]
    before_training: ClassVar[bool] = False
    library: ClassVar[str | None] = None

    def check(self, stack: SublayerStack) -> None:  # noqa: B027 (most take any model)
        """Refuses a model that the method does not support. Changes nothing.

        Raises:
            InputError: The method does not support this kind of model.
        """

    @abstractmethod
    def compress(
        self, model: str, texts: CalibrationTokens, folder: Path, placement: Placement
    ) -> None:
        """Writes a smaller model.

        Args:
            model: A local folder, an embedded model or a hub id, as for `load_model`.
            texts: Token ids of the calibration texts.
            folder: The folder to write; it exists and is empty.
            placement: Where the method computes.

        Raises:
            InputError: The method does not support this model.
        """

    def load(self, folder: Path, placement: Placement | None = None) -> PreTrainedModel:
        """Loads a folder that `compress` has written, as users of the method do.

        Args:
            folder: The folder.
            placement: Where the model computes; by default on a GPU if there is one.
        """
        return load_model(str(folder), **(placement or find_placement())._asdict())[0]

    def stored(self, folder: Path, dead: Sequence[str] = ()) -> StoredSizes:
        """Sizes of the model in a folder that `compress` has written.

        Args:
            folder: The folder.
            dead: Beginnings of the names of dead sublayers' tensors, see `stored_sizes`.
        """
        return stored_sizes(folder, dead)

    def note(self, folder: Path) -> str | None:
        """A line about a folder that `compress` has written, for its user; None for nothing."""
        return None


def baseline_names() -> list[str]:
    """Names of the baselines, the files in `baselines/`.

    Raises:
        InputError: There is no such folder: it is part of a clone, not of the package.
    """
    from_a_clone(BASELINES)
    return plugin_names(BASELINES)


def baseline_docs() -> dict[str, str]:
    """One line of description for each baseline, whether or not its library is installed."""
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
    baseline: Baseline,
    model: str,
    texts: CalibrationTokens,
    folder: Path,
    tokenizer: Any,
    *,
    dead: Sequence[str] = (),
    placement: Placement | None = None,
) -> StoredSizes:
    """Writes the model that a baseline makes; the folder appears under its name once it is whole.

    Args:
        baseline: The method.
        model: The model to compress, as for `load_model`.
        texts: Token ids of the calibration texts.
        folder: The folder to write; another model there is replaced.
        tokenizer: The model's tokenizer, saved beside it.
        dead: Beginnings of the names of dead sublayers' tensors, see `stored_sizes`.
        placement: Where the method computes; by default on a GPU if there is one.

    Returns:
        Sizes of the new model.

    Raises:
        InputError: The place holds something else than a model, the disk is full, or the method
            does not support this model.
    """
    folder = folder.absolute()
    if folder.resolve() == Path(model).resolve():
        raise InputError(f"{folder} is the model itself; choose another folder")
    with atomic_folder(folder) as part:
        baseline.compress(model, texts, part, placement or find_placement())
        tokenizer.save_pretrained(part)
        return baseline.stored(part, dead)

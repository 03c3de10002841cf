"""What a method that trimming is compared with has to do: the interface of `baselines/`.

A baseline is one file of that folder that defines one subclass of `Baseline`; the file's name is
the method's name. It reads a model and writes a smaller one, as a folder that can be loaded again:
what is reported is measured on what was written.
"""

import importlib
import math
import pkgutil
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from trimlab.choices import EncodedItem
from trimlab.errors import InputError
from trimlab.families import family_of
from trimlab.models import is_replaceable, load_model
from trimlab.sublayers import SublayerStack

# as many as in the papers of GPTQ and SparseGPT, where they have 2,048 tokens each
CALIBRATION_TEXTS = 128

# token ids of training texts, each with its right answer
Texts = Sequence[Sequence[int]]

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
ITEM_BYTES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1}
ITEM_BYTES |= {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}


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
    modules = pkgutil.iter_modules(_package().__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def baseline_docs() -> dict[str, str]:
    """What each baseline is, in a line; none of their libraries has to be there."""
    modules = {name: importlib.import_module(f"baselines.{name}") for name in baseline_names()}
    return {name: (m.__doc__ or "").partition("\n")[0] for name, m in modules.items()}


def baseline_class(name: str) -> type[Baseline]:
    """The class of a baseline.

    Args:
        name: A file in `baselines/`, such as `sparsegpt`.

    Raises:
        InputError: There is no such baseline, or its library is not installed.
    """
    if name not in baseline_names():
        raise InputError(f"no baseline {name!r}; there are {', '.join(baseline_names())}")
    module = importlib.import_module(f"baselines.{name}")
    found: type[Baseline] = next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Baseline)
        and value.__module__ == module.__name__
    )
    if found.library is not None and find_spec(found.library) is None:
        raise InputError(
            f"{name} needs {found.library}, which is not installed: "
            "pip install 'trimlab[baselines]'"
        )
    return found


def _package() -> Any:
    try:
        return importlib.import_module("baselines")
    except ModuleNotFoundError as error:
        raise InputError(
            "this needs a clone of the repository: its folder `baselines` is not there"
        ) from error


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


# ---- sizes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """What a model's tensors take where its plain weights have 16 bits.

    Attributes:
        layers: Bytes of the blocks.
        model: Bytes of everything, embeddings included.
        zeros: Share of the blocks' matrix entries that are zero: memory and time for hardware that
            skips them, and none for other.
    """

    layers: float
    model: float
    zeros: float = 0.0


def stored_sizes(folder: Path) -> Stored:
    """Reads what the tensors of a written model take.

    Floating-point tensors, scales too, count two bytes an entry whatever they are saved in:
    quantised weights of four bits are compared with weights of sixteen, as in the papers. Packed
    ones count as they are.

    Args:
        folder: A Hugging Face folder with `*.safetensors`.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    blocks = f"{family_of(config).blocks}."
    layers = whole = 0
    matrices: list[tuple[int, int]] = []  # zeros and entries
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                tensor = file.get_slice(name)
                shape, kind = tensor.get_shape(), tensor.get_dtype()
                size = math.prod(shape) * (2 if kind in FLOATS else ITEM_BYTES[kind])
                whole += size
                if name.startswith(blocks):
                    layers += size
                    if kind in FLOATS and len(shape) == 2:
                        matrices.append(_zeros(file.get_tensor(name)))
    return Stored(layers, whole, _share(matrices))


def plain_sizes(stack: SublayerStack) -> Stored:
    """What a model took before anything was dropped, with two bytes a weight; zeros not counted."""
    scale = 2 / stack.model.dtype.itemsize
    return Stored(scale * stack.bytes_of(*stack.original), scale * stack.model_bytes)


def zeros_of(stack: SublayerStack) -> float:
    """Share of the blocks' matrix entries that are zero, see `Stored`."""
    return _share([_zeros(p) for s in stack for p in stack.parameters(s) if p.dim() == 2])


def _zeros(matrix: Tensor) -> tuple[int, int]:
    return int((matrix == 0).sum()), matrix.numel()


def _share(matrices: Sequence[tuple[int, int]]) -> float:
    return sum(zeros for zeros, _ in matrices) / max(1, sum(n for _, n in matrices))

"""Models of benchmarks."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._timing import device
from trimlab.model.llama_shaped import llama_shaped
from trimlab.model.loading import load_model

LLAMA_SHAPED = "llama-shaped"


@contextmanager
def prepared_model(model: str, blocks: int, texts: Iterable[str]) -> Iterator[str]:
    """Name or folder of a model for `load_model`.

    Args:
        model: A model name, returned as it is, or `llama-shaped`: a random model, written to a
            temporary folder.
        blocks: Blocks of `llama-shaped`.
        texts: Training texts of the tokenizer of `llama-shaped`.
    """
    if model != LLAMA_SHAPED:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(llama_shaped(Path(folder), texts, blocks))


def load_on_device(base: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A new copy of a model on the device of benchmarks, and its tokenizer."""
    model, tokenizer = load_model(base)
    return model.to(device()), tokenizer  # type: ignore[arg-type]

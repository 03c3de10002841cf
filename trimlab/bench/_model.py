"""The model of a benchmark: one by name, or random weights in a shape."""

import copy
from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._device import check_weights_fit
from trimlab.errors import InputError
from trimlab.model.loading import load_model, load_tokenizer
from trimlab.model.shape import empty_model, random_model, shape_config
from trimlab.model.shape_tokenizer import shape_tokenizer
from trimlab.model.vocabulary import fit_tokenizer, set_longest_text

LLAMA_SHAPED = "llama-shaped"


class BenchmarkModel:
    """Makes the model of a benchmark, as often as it is asked to.

    Random weights are made on the device and are on no disk.

    Args:
        name: Name of a model, as `load_model` takes it.
        shape: Name of a shape, in place of a model.
        blocks: Blocks of the shape; by default its own number.
        device: Device of the weights.
        dtype: Type of the weights.
        texts: Training texts of a shape's tokenizer.

    Raises:
        InputError: There is no such shape, its weights do not fit into the memory of the device,
            or a model by name is to have another number of blocks.
    """

    def __init__(
        self,
        name: str,
        shape: str | None = None,
        blocks: int | None = None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        texts: Callable[[], Iterable[str]] = tuple,
    ):
        self.device, self.dtype = device, dtype
        self._texts = texts
        self._config: PreTrainedConfig | None = None
        self.name = name
        if shape is None:
            if blocks is not None:
                raise InputError("--blocks is for a --shape: a model has the blocks that it has")
            return
        # the name of the first shape, which records have had all along
        self.name = shape if shape == LLAMA_SHAPED else f"{shape}-shape"
        self._config = shape_config(shape)
        if blocks is not None:
            self._config.num_hidden_layers = blocks
        parameters = sum(p.numel() for p in empty_model(copy.deepcopy(self._config)).parameters())
        check_weights_fit(parameters * dtype.itemsize, device)

    @property
    def blocks(self) -> int | None:
        """Number of blocks of a shape; None for a model by name."""
        return None if self._config is None else self._config.num_hidden_layers

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; that of a shape is trained on the texts, with the shape's vocabulary."""
        if self._config is None:
            return load_tokenizer(self.name)
        tokenizer = shape_tokenizer(self._texts(), self._config.vocab_size)
        set_longest_text(tokenizer, self._config)
        return tokenizer

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A new copy of the model on its device, in evaluation mode, and its tokenizer."""
        if self._config is None:
            model, tokenizer = load_model(self.name, dtype=self.dtype)
            return model.to(self.device), tokenizer  # type: ignore[arg-type]
        model, tokenizer = self.load_alone(), self.tokenizer
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.config, name, getattr(tokenizer, name))
        fit_tokenizer(tokenizer, model, self.name)
        return model, tokenizer

    def load_alone(self) -> PreTrainedModel:
        """The model without its tokenizer, for which a shape needs texts."""
        if self._config is None:
            return self.load()[0]
        return random_model(copy.deepcopy(self._config), self.dtype, self.device)

"""Transformers: PyTorch, eager, for folders of a stock Hugging Face model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from trimlab.engines._engine import DECILM_CODE, Engine, LoadedModel
from trimlab.errors import InputError, one_line


class TransformersModel(LoadedModel):
    """A model of transformers, also one that was never on disk.

    Args:
        model: The model, in evaluation mode.
        threads: Threads of PyTorch until `close`; None to leave them.
    """

    engine = "transformers"

    def __init__(self, model: PreTrainedModel, threads: int | None = None):
        self.model: PreTrainedModel | None = model
        self.dtype = model.dtype
        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def logits(self, ids: Tensor, first: int = 0) -> Tensor:
        """See `LoadedModel.logits`."""
        assert self.model is not None
        kept = ids.shape[1] - first
        ids = ids.to(self.model.device)
        return self.model(ids, use_cache=False, logits_to_keep=kept).logits.cpu()

    def decode(self, prompt_ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """See `LoadedModel.decode`."""
        assert self.model is not None
        ids, cache = torch.tensor([list(prompt_ids)], device=self.model.device), None
        for _ in range(new_tokens):
            # not around the loop: the mode would stay on in the caller between two tokens
            with torch.inference_mode():
                output = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                ids, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
            yield int(ids)

    def close(self) -> None:
        """See `LoadedModel.close`."""
        self.model = None
        torch.set_num_threads(self._threads_before)


class Transformers(Engine):
    """The reference: it runs every format that is a Hugging Face folder."""

    package, extra, weights = "transformers", "all", "*.safetensors"

    def reads(self, folder: Path) -> bool:
        """See `Engine.reads`; it has no model class for nemotron-nas."""
        return super().reads(folder) and not (folder / DECILM_CODE).is_file()

    def load(
        self, folder: Path, *, threads: int | None = None, dtype: torch.dtype | None = None
    ) -> TransformersModel:
        """See `Engine.load`."""
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype or "auto", use_safetensors=True, local_files_only=True
            )
        except Exception as error:  # a damaged file or config fails at its first use
            raise InputError(f"transformers cannot load {folder}: {one_line(error)}") from error
        return TransformersModel(model.eval(), threads)

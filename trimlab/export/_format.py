"""The interface of export formats.

A format is one file in this folder that defines one subclass of `ExportFormat`; the format's name
is the file's, with `-` for `_`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.engines._engine import LoadedModel, load_engine
from trimlab.errors import InputError
from trimlab.export._card import CARD, exported_card
from trimlab.export._compare import (
    Difference,
    check_equal,
    check_similar,
    check_strictly,
    compare,
)
from trimlab.export._packing import Tier, pack, packed_size, tier_of
from trimlab.files import atomic_folder, write_text
from trimlab.model.sublayers import SublayerStack
from trimlab.plugins import hyphenated_module, hyphenated_names, plugin_class

FORMATS = "trimlab.export"

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Export:
    """A written model.

    Attributes:
        folder: The model's folder.
        tier: T1 (kept sublayers only), T2 (dead sublayers fill gaps) or T3 (blocks that lack a
            sublayer).
        blocks: Number of blocks.
        bytes_on_disk: Size of the folder.
        dtype: The type of the written weights: `float32`, `q8_0`.
        engine: Name of the engine that it was reloaded in.
        difference: How far the reloaded model is from the trimmed model. Both are computed in the
            type that the trimmed model has in memory, with weights as they were written, before
            they were compressed.
        compressed: How far the model with compressed weights is from the trimmed model, whose
            weights are whole; None where weights are not compressed.
        checked: How far the reloaded model is in another engine that was asked for.
    """

    folder: Path
    tier: Tier
    blocks: int
    bytes_on_disk: int
    dtype: str
    engine: str
    difference: Difference
    compressed: Difference | None = None
    checked: Difference | None = None

    @property
    def logit_difference(self) -> float:
        """Largest difference of logits before compression, as a share of the largest logit."""
        return self.difference.logits


class ExportFormat(ABC):
    """One way to write a trimmed model so that other programs run it.

    Attributes:
        engine: Name of the engine that reads it.
        compressions: Types of weights that `compress` makes of those that `save` has written.
    """

    engine: ClassVar[str]
    compressions: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The name of the format's file, with `-` for `_`."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def dtypes(self) -> list[str]:
        """Names of the types that weights can have."""
        return list(dict.fromkeys([*FLOATS, *self.compressions]))

    def check(self, stack: SublayerStack) -> None:
        """Refuses a model that the format cannot hold. Changes and writes nothing.

        Subclasses extend it.

        Raises:
            InputError: A dropped sublayer is not the residual identity (an ablation), so that no
                ordinary model computes the same; the format does not support this model; or what
                the format needs is not installed.
        """
        if stack.bypass_rule != "residual":
            raise InputError(
                f"a model with trim.bypass {stack.bypass_rule} can't be exported: no ordinary "
                "model computes it; trim with trim.bypass residual"
            )

    @abstractmethod
    def save(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        dtype: torch.dtype,
    ) -> None:
        """Writes the files of the trimmed model, weights in a floating-point type.

        Args:
            stack: The trimmed model, which stays as it is.
            tokenizer: Its tokenizer.
            folder: An empty folder.
            dtype: The type of the written weights.
        """

    def compress(self, folder: Path, dtype: str) -> None:
        """Replaces the weights of a folder that `save` has written by smaller ones.

        Args:
            folder: The folder.
            dtype: One of `compressions`.
        """
        raise NotImplementedError

    @abstractmethod
    def start(self, folder: Path) -> list[str]:
        """The commands that run an exported folder, one for each engine.

        Args:
            folder: The folder.
        """

    def load(self, folder: Path, trimmed: PreTrainedModel) -> LoadedModel:
        """Loads an exported folder to compare it with the trimmed model.

        Args:
            folder: The folder.
            trimmed: The model that was exported.
        """
        return load_engine(self.engine).load(folder, dtype=trimmed.dtype)

    def tier(self, stack: SublayerStack) -> tuple[Tier, int]:
        """The tier of an export, and its number of blocks."""
        blocks = pack(stack)
        return tier_of(blocks), len(blocks)

    def saved_dtype(self, stack: SublayerStack, dtype: str | None) -> torch.dtype:
        """The type that `save` writes on the way to weights of a type."""
        return FLOATS.get(dtype or "", stack.model.dtype)

    def size(self, stack: SublayerStack) -> int:
        """Number of the weights that `save` writes, with those of dead sublayers."""
        return packed_size(stack, pack(stack))

    def room(self, stack: SublayerStack, saved: torch.dtype, dtype: str | None) -> int:
        """Bytes on disk that writing takes at most: compressed weights come beside whole ones."""
        compresses = dtype is not None and dtype != str(saved).removeprefix("torch.")
        smaller = FLOATS.get(dtype or "", torch.int8).itemsize if compresses else 0
        return self.size(stack) * (saved.itemsize + smaller)

    def rounding(self, stack: SublayerStack) -> float:
        """By how much the engine's functions change logits, as a share of the largest one."""
        return 0.0

    def write(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: str | Path,
        dtype: str | torch.dtype | None = None,
        *,
        engine: str | None = None,
        card: str | None = None,
    ) -> Export:
        """Writes the trimmed model, once it has been reloaded and its logits agree.

        Args:
            stack: The trimmed model, which stays as it is.
            tokenizer: Its tokenizer, saved beside it.
            folder: The folder to write. An earlier export there is replaced.
            dtype: The type of the written weights, one of `dtypes`; None for the type that they
                have in memory.
            engine: Name of another engine in which the export is compared, too, before weights
                are compressed.
            card: The card of the trimmed model; that of the export, which is made of it, is
                written beside the weights.

        Returns:
            The export.

        Raises:
            InputError: `check` refuses the model, there is no such type, the disk is full, or the
                place holds something else than a model.
            RuntimeError: The reloaded model's logits differ.
        """
        self.check(stack)
        asked = None if dtype is None else str(dtype).removeprefix("torch.")
        if asked is not None and asked not in self.dtypes:
            raise InputError(f"no type {asked!r} in this format; there are {self.dtypes}")
        folder, model = Path(folder).absolute(), stack.model
        saved, compressed, checked = self.saved_dtype(stack, asked), None, None
        written = str(saved).removeprefix("torch.")
        with atomic_folder(folder, self.room(stack, saved, asked)) as part:
            self.save(stack, tokenizer, part, saved)
            with self.load(part, model) as reloaded:
                own, computed = reloaded.engine, reloaded.dtype
                difference = compare(model, reloaded, saved)
            check_equal(difference, model.dtype, computed, rounding=self.rounding(stack))
            if engine is not None:
                with load_engine(engine).load(part, dtype=model.dtype) as reloaded:
                    checked = compare(model, reloaded, saved)
                    check_strictly(checked, reloaded.dtype)
            if asked is not None and asked != written:
                self.compress(part, asked)
                with self.load(part, model) as reloaded:
                    compressed = compare(model, reloaded)
                check_similar(compressed, asked)
            tier, blocks = self.tier(stack)
            export = Export(
                folder=folder,
                tier=tier,
                blocks=blocks,
                bytes_on_disk=sum(f.stat().st_size for f in part.rglob("*") if f.is_file()),
                dtype=asked or written,
                engine=own,
                difference=difference,
                compressed=compressed,
                checked=checked,
            )
            if card is not None:
                write_text(part / CARD, exported_card(card, export, self.name))
        return export


def format_names() -> list[str]:
    """Names of the export formats."""
    return hyphenated_names(FORMATS)


def load_format(name: str) -> ExportFormat:
    """Makes an export format.

    Args:
        name: One of `format_names()`, such as `hf`.

    Raises:
        InputError: There is no such format.
    """
    return plugin_class(hyphenated_module(FORMATS, name, "export format"), ExportFormat)()

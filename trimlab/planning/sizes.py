"""Numbers of a model's parameters, from its config alone."""

from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedConfig

from trimlab.model.family import Kind
from trimlab.model.shape import empty_model
from trimlab.model.sublayers import SublayerStack


@dataclass(frozen=True)
class ModelSizes:
    """A model without its weights.

    Attributes:
        config: Its config.
    """

    config: PreTrainedConfig

    @cached_property
    def stack(self) -> SublayerStack:
        """Its sublayers, on the meta device.

        Raises:
            InputError: The model type is not supported.
        """
        return SublayerStack(empty_model(self.config))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.stack.blocks)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.config.hidden_size

    def parameters_of(self, *kinds: Kind) -> int:
        """Parameters of these sublayers of one block; all blocks are alike."""
        chosen = [s for s in self.stack.original if s.block == 0 and s.kind in kinds]
        return self.stack.bytes_of(*chosen) // self.stack.model.dtype.itemsize

    @property
    def layers(self) -> int:
        """Parameters of all sublayers."""
        return self.blocks * self.parameters_of("attention", "mlp")

    @property
    def total(self) -> int:
        """Parameters of the whole model; tied embeddings count once."""
        return self.stack.model_bytes // self.stack.model.dtype.itemsize

    @property
    def cache_per_token(self) -> int:
        """Entries of the KV cache for one token in all attentions (sliding windows still open)."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or self.hidden // config.num_attention_heads
        return self.blocks * 2 * heads * width


def trained_sublayers(blocks: int, r: float) -> list[frozenset[Kind]]:
    """The trained sublayers of every block, before a scan has chosen them.

    A share r of all, evenly spaced, attentions and MLPs in turn, the first block included: the
    gradient passes through the whole model.
    """
    total = 2 * blocks
    n = max(1, round(r * total))
    chosen: list[set[Kind]] = [set() for _ in range(blocks)]
    if n == total:
        return [frozenset({"attention", "mlp"})] * blocks
    for i in range(n):
        index = i * total // n
        kinds: tuple[Kind, Kind] = ("attention", "mlp")
        wanted = chosen[index // 2]
        wanted.add(kinds[i % 2] if kinds[i % 2] not in wanted else kinds[1 - i % 2])
    return [frozenset(kinds) for kinds in chosen]
